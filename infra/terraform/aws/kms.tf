# One key a kind of data, so that a grant on one opens nothing else.
locals {
  keys = {
    store    = "partitions, runs, releases and feedback in S3"
    database = "PostgreSQL of Airflow and MLflow, its backups and its password"
    cluster  = "Secrets of the cluster, node volumes, images and logs"
  }
}

resource "aws_kms_key" "this" {
  for_each = local.keys

  description             = "${var.name}: ${each.value}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key[each.key].json
}

resource "aws_kms_alias" "this" {
  for_each = local.keys

  name          = "alias/${var.name}-${each.key}"
  target_key_id = aws_kms_key.this[each.key].key_id
}

data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109:2026-11-28 in a key's own policy "*" is this key, and AWS refuses a key that its account cannot administer
  #checkov:skip=CKV_AWS_111:2026-11-28 as above
  #checkov:skip=CKV_AWS_356:2026-11-28 as above
  for_each = local.keys

  # AWS refuses a key that its own account cannot administer; what roles may do with it is in roles.json
  statement {
    sid       = "AccountAdministers"
    actions   = ["kms:*"]
    resources = ["*"]

    principals {
      type        = "AWS"
      identifiers = [local.root_arn]
    }
  }

  dynamic "statement" {
    for_each = each.key == "cluster" ? ["logs.${var.region}.amazonaws.com"] : []

    content {
      sid       = "LogsEncrypt"
      actions   = ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*", "kms:DescribeKey"]
      resources = ["*"]

      principals {
        type        = "Service"
        identifiers = [statement.value]
      }

      condition {
        test     = "ArnLike"
        variable = "kms:EncryptionContext:aws:logs:arn"
        values   = ["arn:${local.partition}:logs:${var.region}:${local.account}:log-group:/aws/eks/${var.name}/*"]
      }
    }
  }
}

# Least privilege, one role a purpose. The policies are files (roles/*.json), so that a test can ask them about every call
# that a recorded run really made, without Terraform: tests/contract/test_iam.py. ListBucket has no prefix on purpose: S3
# answers 403 instead of 404 to HeadObject without it, and our steps must be able to see that something is not there yet.
locals {
  accounts = {
    controller = ["${var.name}-controller"]
    ranker     = ["${var.name}-ranker"]
    mlflow     = ["${var.name}-mlflow"]
    steps      = ["${var.name}-airflow-worker", "${var.name}-finetune"] # the second with training.enabled of the chart
    pruner     = ["${var.name}-pruner"] # the chart's CronJob: steps cannot delete, so the task `store` of the DAG skips here
  }
  policies = toset(["controller", "ranker", "mlflow", "steps", "eraser", "pruner"])
}

resource "aws_iam_policy" "this" {
  for_each = local.policies

  name = "${var.name}-${each.key}"
  policy = templatefile("${path.module}/roles/${each.key}.json", {
    bucket = aws_s3_bucket.store.arn
    key    = aws_kms_key.this["store"].arn
  })
}

resource "aws_iam_role" "pod" {
  for_each = local.accounts

  name                 = "${var.name}-${each.key}"
  max_session_duration = 3600
  assume_role_policy   = data.aws_iam_policy_document.pod[each.key].json
}

resource "aws_iam_role_policy_attachment" "pod" {
  for_each = local.accounts

  role       = aws_iam_role.pod[each.key].name
  policy_arn = aws_iam_policy.this[each.key].arn
}

# named ServiceAccounts of one namespace, nobody else
data "aws_iam_policy_document" "pod" {
  for_each = local.accounts

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.cluster.arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = [for account in each.value : "system:serviceaccount:${var.namespace}:${account}"]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

# taken by a person, with a second factor, to run `freshrank erase` and `freshrank retention`
resource "aws_iam_role" "eraser" {
  name                 = "${var.name}-eraser"
  max_session_duration = 3600
  assume_role_policy   = data.aws_iam_policy_document.eraser.json
}

resource "aws_iam_role_policy_attachment" "eraser" {
  role       = aws_iam_role.eraser.name
  policy_arn = aws_iam_policy.this["eraser"].arn
}

data "aws_iam_policy_document" "eraser" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "AWS"
      identifiers = [local.root_arn]
    }

    condition {
      test     = "Bool"
      variable = "aws:MultiFactorAuthPresent"
      values   = ["true"]
    }
  }
}

# Partitions, runs, releases, views and feedback. Versioned and locked: for lock_days nobody, no role of ours and no thief of
# its credentials, can destroy what was written. An erasure deletes at once for all readers; the bytes go lock_days later.
locals {
  bucket = "${var.name}-${local.account}-${var.region}"
}

resource "aws_s3_bucket" "store" {
  #checkov:skip=CKV_AWS_144:2026-11-28 one region by design; a second copy of behaviour data is a decision of its owner
  #checkov:skip=CKV2_AWS_62:2026-11-28 nobody listens to bucket events; Airflow asks for manifests
  bucket              = local.bucket
  object_lock_enabled = true

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "store" {
  bucket     = aws_s3_bucket.store.id
  depends_on = [aws_s3_bucket_versioning.store]

  rule {
    default_retention {
      mode = "GOVERNANCE" # and no role of ours may bypass it; COMPLIANCE would outlast a court's order to delete
      days = var.lock_days
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    bucket_key_enabled = true

    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.this["store"].arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

# By age nothing goes but what was deleted already: a champion may serve for a year, and what led to it must be there to explain it.
# What nothing needs goes by role `pruner`.
resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket     = aws_s3_bucket.store.id
  depends_on = [aws_s3_bucket_versioning.store]

  rule {
    id     = "uploads-that-broke-off"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "what-was-deleted-is-gone-once-its-lock-ends"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.lock_days
    }

    expiration {
      expired_object_delete_marker = true
    }
  }

  rule {
    id     = "days-become-cold"
    status = "Enabled"

    filter {
      prefix = "behaviour/"
    }

    transition {
      days          = 90
      storage_class = "STANDARD_IA"
    }
  }
}

resource "aws_s3_bucket_policy" "store" {
  bucket     = aws_s3_bucket.store.id
  policy     = data.aws_iam_policy_document.store.json
  depends_on = [aws_s3_bucket_public_access_block.store]
}

data "aws_iam_policy_document" "store" {
  statement {
    sid       = "OnlyTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }

  statement {
    sid       = "OnlyOurKey"
    effect    = "Deny"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.store.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "StringNotEqualsIfExists"
      variable = "s3:x-amz-server-side-encryption-aws-kms-key-id"
      values   = [aws_kms_key.this["store"].arn]
    }
  }
}

# who asked for what: kept apart, so that whoever reads data cannot read or lose its log
resource "aws_s3_bucket" "log" {
  #checkov:skip=CKV_AWS_144:2026-11-28 one region by design, as the store
  #checkov:skip=CKV_AWS_18:2026-11-28 it is the log; a log of the log would never end
  #checkov:skip=CKV2_AWS_62:2026-11-28 nobody listens to its events
  #checkov:skip=CKV_AWS_145:2026-11-28 S3 log delivery writes with SSE-S3 only
  bucket = "${local.bucket}-log"
}

resource "aws_s3_bucket_versioning" "log" {
  bucket = aws_s3_bucket.log.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "log" {
  bucket = aws_s3_bucket.log.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "log" {
  bucket                  = aws_s3_bucket.log.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "log" {
  bucket     = aws_s3_bucket.log.id
  depends_on = [aws_s3_bucket_versioning.log]

  rule {
    id     = "a-year"
    status = "Enabled"

    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }

    expiration {
      days = 365
    }

    noncurrent_version_expiration {
      noncurrent_days = 7
    }
  }
}

resource "aws_s3_bucket_policy" "log" {
  bucket = aws_s3_bucket.log.id
  policy = data.aws_iam_policy_document.log.json
}

data "aws_iam_policy_document" "log" {
  statement {
    sid       = "S3Delivers"
    actions   = ["s3:PutObject"]
    resources = ["${aws_s3_bucket.log.arn}/store/*"]

    principals {
      type        = "Service"
      identifiers = ["logging.s3.amazonaws.com"]
    }

    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_s3_bucket.store.arn]
    }
  }

  statement {
    sid       = "OnlyTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.log.arn, "${aws_s3_bucket.log.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_logging" "store" {
  bucket        = aws_s3_bucket.store.id
  target_bucket = aws_s3_bucket.log.id
  target_prefix = "store/"
}

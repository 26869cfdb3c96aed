# === Images ===

resource "aws_ecr_repository" "this" {
  for_each             = toset(var.registry ? ["ingestion", "attribution-engine", "query-api", "ml-gateway", "kong", "triton"] : [])
  name                 = "attribution/${each.key}"
  image_tag_mutability = "IMMUTABLE"
  encryption_configuration {
    encryption_type = "KMS"
  }
  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each   = aws_ecr_repository.this
  repository = each.value.name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "the newest 100 images stay"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 100 }
      action       = { type = "expire" }
    }]
  })
}

# === Backups ===

# Those of this cluster, and their copies in another region; a bucket has the backups of one cluster alone.
locals {
  buckets = merge({ backups = var.region }, var.replicate_to == "" ? {} : { copies = var.replicate_to })
}

resource "aws_kms_key" "backups" {
  #checkov:skip=CKV2_AWS_64: the default policy of a key is meant: the account's own roles by their policies
  for_each                = local.buckets
  region                  = each.value
  description             = "${title(each.key)} of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

# What a cluster that takes this one's place may read with.
resource "aws_kms_alias" "backups" {
  for_each      = local.buckets
  region        = each.value
  name          = "alias/attribution-${each.key}-${local.place}"
  target_key_id = aws_kms_key.backups[each.key].key_id
}

resource "aws_s3_bucket" "backups" {
  #checkov:skip=CKV2_AWS_62: nobody is told of new objects
  #checkov:skip=CKV_AWS_18: who reads is in the trail of the account
  #checkov:skip=CKV_AWS_144: replicated as soon as `replicate_to` is set
  for_each = local.buckets
  region   = each.value
  bucket   = "attribution-${each.key}-${local.place}"
  # Set when the bucket is made, and never again: what is kept cannot be deleted by who stole a key.
  object_lock_enabled = true
}

resource "aws_s3_bucket_versioning" "backups" {
  for_each = local.buckets
  region   = each.value
  bucket   = aws_s3_bucket.backups[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_object_lock_configuration" "backups" {
  for_each = local.buckets
  region   = each.value
  bucket   = aws_s3_bucket.backups[each.key].id
  rule {
    default_retention {
      mode = "GOVERNANCE"
      days = 2
    }
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "backups" {
  for_each = local.buckets
  region   = each.value
  bucket   = aws_s3_bucket.backups[each.key].id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.backups[each.key].arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "backups" {
  for_each                = local.buckets
  region                  = each.value
  bucket                  = aws_s3_bucket.backups[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# Nothing that a recovery needs within four hours may be in a class that is read in hours.
resource "aws_s3_bucket_lifecycle_configuration" "backups" {
  for_each = local.buckets
  region   = each.value
  bucket   = aws_s3_bucket.backups[each.key].id
  rule {
    id     = "age"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
    transition {
      days          = 30
      storage_class = "GLACIER_IR"
    }
    expiration {
      days = 120
    }
    noncurrent_version_expiration {
      noncurrent_days = 7
    }
  }
}

resource "aws_iam_role" "replication" {
  count              = var.replicate_to == "" ? 0 : 1
  name               = "${local.name}-replication"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["s3"].json
}

data "aws_iam_policy_document" "replication" {
  count = var.replicate_to == "" ? 0 : 1
  statement {
    actions   = ["s3:GetReplicationConfiguration", "s3:ListBucket"]
    resources = [aws_s3_bucket.backups["backups"].arn]
  }
  statement {
    actions   = ["s3:GetObjectVersionForReplication", "s3:GetObjectVersionAcl", "s3:GetObjectVersionTagging", "s3:GetObjectRetention"]
    resources = ["${aws_s3_bucket.backups["backups"].arn}/*"]
  }
  statement {
    actions   = ["s3:ReplicateObject", "s3:ReplicateDelete", "s3:ReplicateTags"]
    resources = ["${aws_s3_bucket.backups["copies"].arn}/*"]
  }
  statement {
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.backups["backups"].arn]
  }
  statement {
    actions   = ["kms:Encrypt"]
    resources = [aws_kms_key.backups["copies"].arn]
  }
}

resource "aws_iam_role_policy" "replication" {
  count  = var.replicate_to == "" ? 0 : 1
  role   = aws_iam_role.replication[0].id
  policy = data.aws_iam_policy_document.replication[0].json
}

resource "aws_s3_bucket_replication_configuration" "backups" {
  count  = var.replicate_to == "" ? 0 : 1
  bucket = aws_s3_bucket.backups["backups"].id
  role   = aws_iam_role.replication[0].arn
  rule {
    id     = "elsewhere"
    status = "Enabled"
    filter {}
    delete_marker_replication {
      status = "Enabled"
    }
    source_selection_criteria {
      sse_kms_encrypted_objects {
        status = "Enabled"
      }
    }
    destination {
      bucket        = aws_s3_bucket.backups["copies"].arn
      storage_class = "STANDARD"
      encryption_configuration {
        replica_kms_key_id = aws_kms_key.backups["copies"].arn
      }
      # The recovery point counts on these fifteen minutes.
      replication_time {
        status = "Enabled"
        time {
          minutes = 15
        }
      }
      metrics {
        status = "Enabled"
        event_threshold {
          minutes = 15
        }
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.backups]
}

# === Logs ===

resource "aws_s3_bucket" "logs" {
  #checkov:skip=CKV2_AWS_62: nobody is told of new objects
  #checkov:skip=CKV_AWS_18: who reads is in the trail of the account
  #checkov:skip=CKV_AWS_21: logs are written once, and what is deleted is meant to be
  #checkov:skip=CKV_AWS_144: logs of a lost region are not needed to go on
  #checkov:skip=CKV_AWS_145: encrypted by S3's own key: what is secret is in no log
  bucket = "attribution-logs-${local.place}"
}

resource "aws_s3_bucket_public_access_block" "logs" {
  bucket                  = aws_s3_bucket.logs.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

# Loki deletes after 30 days; what it forgets goes a few days later.
resource "aws_s3_bucket_lifecycle_configuration" "logs" {
  bucket = aws_s3_bucket.logs.id
  rule {
    id     = "age"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
    expiration {
      days = 35
    }
  }
}

# === The folder of settings editions ===

resource "aws_efs_file_system" "settings" {
  encrypted  = true
  kms_key_id = aws_kms_key.cluster.arn
  tags       = { Name = "${local.name}-settings" }
}

resource "aws_efs_backup_policy" "settings" {
  file_system_id = aws_efs_file_system.settings.id
  backup_policy {
    status = "ENABLED"
  }
}

resource "aws_efs_mount_target" "settings" {
  for_each        = aws_subnet.nodes
  file_system_id  = aws_efs_file_system.settings.id
  subnet_id       = each.value.id
  security_groups = [aws_eks_cluster.this.vpc_config[0].cluster_security_group_id]
}

# === What the manifests need to know ===

output "settings_file_system" {
  description = "For k8s/components/region/REGION."
  value       = aws_efs_file_system.settings.id
}

output "cluster" {
  description = "For `aws eks update-kubeconfig --name`."
  value       = aws_eks_cluster.this.name
}

output "registry" {
  description = "For the images of the overlays."
  value       = "${local.account}.dkr.ecr.${var.region}.amazonaws.com/attribution"
}

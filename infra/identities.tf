# What pods may do in the account, by ServiceAccount (Pod Identity): nothing but this.

locals {
  managed = {
    vpc-cni = { namespace = "kube-system", account = "aws-node", policy = "arn:aws:iam::aws:policy/AmazonEKS_CNI_Policy" }
    ebs     = { namespace = "kube-system", account = "ebs-csi-controller-sa", policy = "arn:aws:iam::aws:policy/service-role/AmazonEBSCSIDriverPolicy" }
    efs     = { namespace = "kube-system", account = "efs-csi-controller-sa", policy = "arn:aws:iam::aws:policy/service-role/AmazonEFSCSIDriverPolicy" }
  }
  # Who writes into the bucket of backups.
  backups = {
    clickhouse = { namespace = "databases", account = "clickhouse" }
    scylla     = { namespace = "databases", account = "attribution-member" }
    velero     = { namespace = "velero", account = "velero" }
  }
}

resource "aws_iam_role" "managed" {
  for_each           = local.managed
  name               = "${local.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["pods"].json
}

resource "aws_iam_role_policy_attachment" "managed" {
  for_each   = local.managed
  role       = aws_iam_role.managed[each.key].name
  policy_arn = each.value.policy
}

resource "aws_eks_pod_identity_association" "managed" {
  for_each        = local.managed
  cluster_name    = aws_eks_cluster.this.name
  namespace       = each.value.namespace
  service_account = each.value.account
  role_arn        = aws_iam_role.managed[each.key].arn
}

data "aws_iam_policy_document" "backups" {
  statement {
    actions   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.backups["backups"].arn]
  }
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = ["${aws_s3_bucket.backups["backups"].arn}/*"]
  }
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.backups["backups"].arn]
  }
  # After the loss of a region its copies are restored here.
  statement {
    actions   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:GetObject"]
    resources = ["arn:aws:s3:::attribution-copies-*"]
  }
  statement {
    actions   = ["kms:Decrypt"]
    resources = ["arn:aws:kms:${var.region}:${local.account}:key/*"]
    condition {
      test     = "ForAnyValue:StringLike"
      variable = "kms:ResourceAliases"
      values   = ["alias/attribution-copies-*"]
    }
  }
}

data "aws_iam_policy_document" "logs" {
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.logs.arn]
  }
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = ["${aws_s3_bucket.logs.arn}/*"]
  }
}

resource "aws_iam_role" "logs" {
  name               = "${local.name}-logs"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["pods"].json
}

resource "aws_iam_role_policy" "logs" {
  role   = aws_iam_role.logs.id
  policy = data.aws_iam_policy_document.logs.json
}

resource "aws_eks_pod_identity_association" "logs" {
  cluster_name    = aws_eks_cluster.this.name
  namespace       = "monitoring"
  service_account = "loki"
  role_arn        = aws_iam_role.logs.arn
}

resource "aws_iam_role" "backups" {
  name               = "${local.name}-backups"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["pods"].json
}

resource "aws_iam_role_policy" "backups" {
  role   = aws_iam_role.backups.id
  policy = data.aws_iam_policy_document.backups.json
}

resource "aws_eks_pod_identity_association" "backups" {
  for_each        = local.backups
  cluster_name    = aws_eks_cluster.this.name
  namespace       = each.value.namespace
  service_account = each.value.account
  role_arn        = aws_iam_role.backups.arn
}

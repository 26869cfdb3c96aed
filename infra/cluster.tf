resource "aws_kms_key" "cluster" {
  description             = "Secrets and logs of ${local.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.key.json
}

data "aws_iam_policy_document" "key" {
  #checkov:skip=CKV_AWS_109: the root of the account administers its own key
  #checkov:skip=CKV_AWS_111: the same
  #checkov:skip=CKV_AWS_356: in the policy of a key `*` is that key
  statement {
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${local.account}:root"]
    }
  }
  statement {
    actions   = ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
    resources = ["*"]
    principals {
      type        = "Service"
      identifiers = ["logs.${var.region}.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "kms:EncryptionContext:aws:logs:arn"
      values = [
        "arn:aws:logs:${var.region}:${local.account}:log-group:/aws/eks/${local.name}/cluster",
        "arn:aws:logs:${var.region}:${local.account}:log-group:/aws/vpc/${local.name}",
      ]
    }
  }
}

resource "aws_cloudwatch_log_group" "cluster" {
  name              = "/aws/eks/${local.name}/cluster"
  retention_in_days = 365
  kms_key_id        = aws_kms_key.cluster.arn
}

data "aws_iam_policy_document" "assumed_by" {
  for_each = {
    cluster = ["eks.amazonaws.com", ["sts:AssumeRole"]]
    node    = ["ec2.amazonaws.com", ["sts:AssumeRole"]]
    pods    = ["pods.eks.amazonaws.com", ["sts:AssumeRole", "sts:TagSession"]]
    s3      = ["s3.amazonaws.com", ["sts:AssumeRole"]]
    flows   = ["vpc-flow-logs.amazonaws.com", ["sts:AssumeRole"]]
  }
  statement {
    actions = each.value[1]
    principals {
      type        = "Service"
      identifiers = [each.value[0]]
    }
  }
}

resource "aws_iam_role" "cluster" {
  name               = "${local.name}-cluster"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["cluster"].json
}

resource "aws_iam_role_policy_attachment" "cluster" {
  role       = aws_iam_role.cluster.name
  policy_arn = "arn:aws:iam::aws:policy/AmazonEKSClusterPolicy"
}

resource "aws_eks_cluster" "this" {
  #checkov:skip=CKV_AWS_38: `api_cidrs` refuses the whole world
  #checkov:skip=CKV_AWS_39: the public endpoint is open to `api_cidrs` alone
  name                          = local.name
  role_arn                      = aws_iam_role.cluster.arn
  version                       = var.kubernetes
  bootstrap_self_managed_addons = false
  enabled_cluster_log_types     = ["api", "audit", "authenticator", "controllerManager", "scheduler"]
  deletion_protection           = var.stage == "prod"
  access_config {
    authentication_mode = "API"
  }
  upgrade_policy {
    support_type = "STANDARD"
  }
  encryption_config {
    resources = ["secrets"]
    provider {
      key_arn = aws_kms_key.cluster.arn
    }
  }
  vpc_config {
    subnet_ids              = [for subnet in aws_subnet.nodes : subnet.id]
    endpoint_private_access = true
    endpoint_public_access  = true
    public_access_cidrs     = var.api_cidrs
  }
  depends_on = [aws_iam_role_policy_attachment.cluster, aws_cloudwatch_log_group.cluster]
}

# What Karpenter itself and the operators run on; all other nodes are Karpenter's (k8s/components/nodes).
resource "aws_iam_role" "node" {
  name               = "attribution-node-${var.region}-${var.stage}${var.suffix}"
  assume_role_policy = data.aws_iam_policy_document.assumed_by["node"].json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonSSMManagedInstanceCore"])
  role       = aws_iam_role.node.name
  policy_arn = "arn:aws:iam::aws:policy/${each.key}"
}

resource "aws_eks_node_group" "system" {
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = "system"
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = [for subnet in aws_subnet.nodes : subnet.id]
  ami_type        = "AL2023_x86_64_STANDARD"
  instance_types  = ["m7i.xlarge"]
  scaling_config {
    min_size     = 3
    desired_size = 3
    max_size     = 6
  }
  update_config {
    max_unavailable = 1
  }
  depends_on = [aws_iam_role_policy_attachment.node]
}

resource "aws_ec2_tag" "node_group" {
  resource_id = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
  key         = "attribution/role"
  value       = "nodes"
}

# The version that AWS tests with this version of Kubernetes, and not the newest.
data "aws_eks_addon_version" "this" {
  for_each           = toset(["vpc-cni", "kube-proxy", "coredns", "eks-pod-identity-agent", "aws-ebs-csi-driver", "aws-efs-csi-driver"])
  addon_name         = each.key
  kubernetes_version = var.kubernetes
}

resource "aws_eks_addon" "this" {
  for_each      = data.aws_eks_addon_version.this
  cluster_name  = aws_eks_cluster.this.name
  addon_name    = each.key
  addon_version = each.value.version
  # A prefix of 16 addresses at a time: a node runs more pods than its interfaces have addresses.
  configuration_values = each.key == "vpc-cni" ? jsonencode({
    enableNetworkPolicy = "true"
    env                 = { ENABLE_PREFIX_DELEGATION = "true", WARM_PREFIX_TARGET = "1" }
  }) : null
  resolve_conflicts_on_update = "OVERWRITE"
  depends_on                  = [aws_eks_node_group.system]
}

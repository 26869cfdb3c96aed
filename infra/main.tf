# One region: network, cluster, images, buckets. The same files for every region and stage; env/*.tfvars says which.

terraform {
  required_version = ">= 1.10"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.28"
    }
  }
  # Bucket, key and region come from -backend-config; the lock is a file in the bucket.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { project = "attribution", stage = var.stage, managed_by = "terraform" }
  }
}

module "addresses" {
  source    = "./modules/addresses"
  cidr      = var.cidr
  zones     = var.zones
  nodes_max = var.nodes_max
}

data "aws_caller_identity" "this" {}

locals {
  name    = "attribution-${var.stage}-${var.region}${var.suffix}"
  place   = "${var.region}${var.stage == "prod" ? "" : "-${var.stage}"}${var.suffix}"
  account = data.aws_caller_identity.this.account_id
}

# The addresses of a region's network as arithmetic alone: no provider, so that it is tested anywhere.

terraform {
  required_version = ">= 1.10"
}

variable "cidr" {
  description = "The network's block; at least a /16."
  type        = string
  validation {
    condition     = can(cidrhost(var.cidr, 0)) && tonumber(split("/", var.cidr)[1]) <= 16
    error_message = "Give a block of /16 or larger."
  }
}

variable "zones" {
  description = "The three zones."
  type        = list(string)
  validation {
    condition     = length(distinct(var.zones)) == 3
    error_message = "Three different zones: a quorum of three replicas has to survive one."
  }
}

variable "nodes_max" {
  description = "The most nodes of the cluster (ops/plan.py)."
  type        = number
}

locals {
  bits = tonumber(split("/", var.cidr)[1])
  # A /18 of nodes and pods in each zone, a /24 of load balancers and gateways in each zone after them.
  nodes  = { for i, zone in var.zones : zone => cidrsubnet(var.cidr, 18 - local.bits, i) }
  public = { for i, zone in var.zones : zone => cidrsubnet(var.cidr, 24 - local.bits, 192 + i) }
  # A node takes prefixes of 16 addresses: one for its pods and one in advance.
  addresses_per_node = 32
  room_for_nodes     = floor(3 * (pow(2, 32 - 18) - 5) / local.addresses_per_node)
}

output "nodes" {
  description = "Blocks of nodes and pods by zone."
  value       = local.nodes
  precondition {
    condition     = var.nodes_max <= local.room_for_nodes
    error_message = "The subnets hold ${local.room_for_nodes} nodes, fewer than the ${var.nodes_max} wanted."
  }
}

output "public" {
  description = "Blocks of load balancers by zone."
  value       = local.public
}

output "room_for_nodes" {
  description = "How many nodes the subnets hold."
  value       = local.room_for_nodes
}

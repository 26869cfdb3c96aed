variable "region" {
  description = "The region."
  type        = string
}

variable "zones" {
  description = "Its three zones."
  type        = list(string)
}

variable "stage" {
  description = "dev, staging or prod."
  type        = string
  validation {
    condition     = contains(["dev", "staging", "prod"], var.stage)
    error_message = "dev, staging or prod."
  }
}

variable "cidr" {
  description = "The network's block; regions that are peered must not overlap."
  type        = string
}

variable "nodes_max" {
  description = "The most nodes (ops/plan.py)."
  type        = number
}

variable "kubernetes" {
  description = "The minor version of Kubernetes."
  type        = string
  default     = "1.35"
}

variable "api_cidrs" {
  description = "Who may reach the cluster's API."
  type        = list(string)
  validation {
    condition     = !contains(var.api_cidrs, "0.0.0.0/0")
    error_message = "The cluster's API is not for the whole world."
  }
}

variable "suffix" {
  description = "Tells a second cluster of a stage and region from the first, such as -b: one that takes a lost region's place."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(-[a-z0-9]{1,8})?$", var.suffix))
    error_message = "A hyphen and at most eight of a-z0-9, or nothing."
  }
}

variable "registry" {
  description = "Whether the region's repositories of images are made here: one cluster of a region makes them."
  type        = bool
  default     = false
}

variable "replicate_to" {
  description = "The region that holds copies of the backups; empty: none."
  type        = string
  default     = ""
}

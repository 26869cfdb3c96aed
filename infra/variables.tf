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

variable "replicate_to" {
  description = "The region that holds copies of the backups; empty: none, also for the first run of the first region."
  type        = string
  default     = ""
}

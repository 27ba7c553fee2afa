variable "name" {
  description = "Prefix of everything, and the Helm release's name."
  type        = string
  default     = "freshrank"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}$", var.name))
    error_message = "name is 2 to 21 lower-case letters, digits and hyphens: it becomes part of bucket and role names."
  }
}

variable "region" {
  description = "AWS region of everything."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region is an AWS region such as eu-central-1."
  }
}

variable "vpc_id" {
  description = "An existing VPC."
  type        = string

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id names an existing VPC, as vpc-0123456789abcdef0."
  }
}

variable "private_subnets" {
  description = "Private subnets of that VPC, in different zones: nodes and the database go there."
  type        = map(string) # subnet id -> its CIDR

  validation {
    condition     = length(var.private_subnets) >= 2 && alltrue([for id, cidr in var.private_subnets : can(regex("^subnet-[0-9a-f]+$", id)) && can(cidrhost(cidr, 0))])
    error_message = "private_subnets maps at least two subnet ids to their networks, as {subnet-0ab = \"10.0.0.0/20\", subnet-0cd = \"10.0.16.0/20\"}."
  }
}

variable "api_cidrs" {
  description = "Networks that may reach the cluster's API server from outside; empty keeps it private."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.api_cidrs : can(cidrhost(cidr, 0)) && cidr != "0.0.0.0/0"])
    error_message = "api_cidrs are networks such as 198.51.100.0/24; the whole internet is not one of them."
  }
}

variable "namespace" {
  description = "Kubernetes namespace of the Helm release: IAM roles may be taken from there only."
  type        = string
  default     = "ranking"

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is a Kubernetes namespace: lower-case letters, digits and hyphens."
  }
}

variable "kubernetes_version" {
  description = "Version of the cluster."
  type        = string
  default     = "1.33"

  validation {
    condition     = can(regex("^1\\.(3[0-9])$", var.kubernetes_version))
    error_message = "kubernetes_version is 1.30 to 1.39, as the chart asks."
  }
}

variable "gpu_instance_type" {
  description = "Instance type of GPU nodes."
  type        = string
  default     = "g6.2xlarge"

  validation {
    condition     = can(regex("^(g|p)[0-9]", var.gpu_instance_type))
    error_message = "gpu_instance_type is an instance with a GPU: g5, g6, p4, p5 and so on."
  }
}

variable "gpu_nodes_max" {
  description = "Most GPU nodes at once; they scale from zero."
  type        = number
  default     = 2

  validation {
    condition     = var.gpu_nodes_max >= 1 && var.gpu_nodes_max <= 64
    error_message = "gpu_nodes_max is 1 to 64."
  }
}

variable "nodes_max" {
  description = "Most CPU nodes at once."
  type        = number
  default     = 6

  validation {
    condition     = var.nodes_max >= 2 && var.nodes_max <= 200
    error_message = "nodes_max is 2 to 200; two zones need two."
  }
}

variable "lock_days" {
  description = "How long nobody may destroy what was written; also how long erased bytes stay in the bucket's hidden versions."
  type        = number
  default     = 7

  validation {
    condition     = var.lock_days >= 1 && var.lock_days <= 30
    error_message = "lock_days is 1 to 30: an erasure must be complete within a month of being asked for."
  }
}

variable "database_instance_class" {
  description = "Size of the PostgreSQL of Airflow and MLflow."
  type        = string
  default     = "db.t4g.medium"

  validation {
    condition     = can(regex("^db\\.", var.database_instance_class))
    error_message = "database_instance_class is an RDS class such as db.t4g.medium."
  }
}

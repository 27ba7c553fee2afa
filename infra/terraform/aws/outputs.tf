output "registry" {
  description = "Value image.registry of the chart."
  value       = split("/", aws_ecr_repository.this["serving"].repository_url)[0]
}

output "bucket" {
  description = "Value store.bucket of the chart."
  value       = aws_s3_bucket.store.bucket
}

output "store_kms_key" {
  description = "Value store.kmsKey of the chart."
  value       = aws_kms_key.this["store"].arn
}

output "role_arns" {
  description = "Values roles.* of the chart; steps is for Airflow's workers too."
  value       = { for name, role in aws_iam_role.pod : name => role.arn }
}

output "database_cidr" {
  description = "Networks of the database; value networkPolicy.databaseCidr takes one that holds them all."
  value       = values(var.private_subnets)
}

output "database_endpoint" {
  description = "Host and port of PostgreSQL; its password is in Secrets Manager, see database_secret."
  value       = aws_db_instance.this.endpoint
}

output "database_secret" {
  description = "Secret that holds the database user and password."
  value       = aws_db_instance.this.master_user_secret[0].secret_arn
}

output "cluster" {
  description = "aws eks update-kubeconfig --name"
  value       = aws_eks_cluster.this.name
}

"""The Helm chart, and the schemas of the custom resources that it renders."""

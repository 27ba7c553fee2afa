"""Container images: one Dockerfile, one target a role, and the small programs that belong to them."""

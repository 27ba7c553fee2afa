"""What the service needs at run time: release checks, user view, staged ranking, feedback. Reads no settings."""

"""One decision, told: its story out of the store, the page, the bundle that decides it again, and the commands."""

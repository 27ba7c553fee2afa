"""A team's own files against the contract, row by row, before anything is wired."""

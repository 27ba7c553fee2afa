"""Ways to make a trained ranker cheaper. Each turns the parent into graphs for serving; none judges itself."""

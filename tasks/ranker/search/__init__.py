"""Search: lists of a query and items, judged by what people did, ranked by text match, a bi-encoder and a product head."""

"""The ranker over HTTP: `python -m bentos.ranker` (fast; launched) or `bentoml serve` (compatible, slower)."""

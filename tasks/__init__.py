"""The pipeline as plain Python: one module per step, in the order of the data's path. Never imports Airflow."""

import os

# Polars' allocator hands memory back after half a second, and the kernel clears every page again: an eighth of the time of
# validate_data. Two seconds are as fast as for ever; without muzzy pages a quarter less is held. Read once, when Polars is loaded.
os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:2000,muzzy_decay_ms:0")

"""The pipeline as plain Python: one module per step, in the order of the data's path. Never imports Airflow."""

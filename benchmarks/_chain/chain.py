"""### chain: six tasks that do nothing, one after the other, every second one on queue gpu"""

from __future__ import annotations

from airflow.sdk import chain, dag, task


@dag(schedule=None, catchup=False)
def overhead() -> None:
    steps = [
        task(task_id=f"step_{number}", queue="gpu" if number % 2 else "default")(lambda: None)() for number in range(6)
    ]
    chain(*steps)


overhead()

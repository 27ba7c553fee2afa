"""Tasks that a killed worker took with it: told to the scheduler by the worker that takes its place.

A worker that ends by SIGKILL acknowledges nothing. Its messages stay with the broker as taken, and the scheduler learns of a
running task only by a minute without heartbeats; of one that had not begun yet it learns nothing, until that fails at its
deadline in the queue. The next worker of the same name knows better: it has just seen that no process of them is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from tasks.adapters.broker import Broker
from tasks.domain.errors import Unavailable

UNACKED, UNACKED_INDEX = "unacked", "unacked_index"  # kombu's names of what workers have taken and not acknowledged


class Fate(StrEnum):
    LOST = "lost"  # it ran here, and its process is gone
    UNBEGUN = "unbegun"  # taken by a worker that is gone, and never begun
    HELD = "held"  # it runs, or has ended, or only somebody else can know


def fate(
    state: str, holder: dict[str, Any], worker: str, lives: Callable[[int], bool], alone: Callable[[], bool]
) -> Fate:
    """What became of a message that was taken and not acknowledged.

    Args:
        state: of its task, as Celery keeps it: PENDING, STARTED, SUCCESS, FAILURE ...
        holder: of a task that has STARTED, `hostname` of its worker and `pid` of the process that runs it.
        lives: whether a process of this worker has that pid.
        alone: whether no other worker serves the queue; asked only where the answer decides.
    """
    if state == "STARTED" and holder.get("hostname") == worker and not lives(int(holder["pid"])):
        return Fate.LOST
    return Fate.UNBEGUN if state == "PENDING" and alone() else Fate.HELD


def give_back(broker: Broker, results: str, queue: str, worker: str, lives: Callable[[int], bool]) -> dict[str, Fate]:
    """Fail what was lost, so that the scheduler tries it again at once, and put what had not begun back into the queue.

    results: URL of Celery's results, `db+postgresql://...`. Returns {id of the task: its fate}, of those not HELD.
    Raises Unavailable where the broker or the results do not answer.
    """
    from billiard.exceptions import WorkerLostError
    from celery import Celery, states
    from sqlalchemy.exc import SQLAlchemyError

    def alone() -> bool:
        return not broker.workers().get(queue)

    found = dict[str, Fate]()
    with Celery(broker=broker.url, backend=results, set_as_current=False) as app, broker.asked() as client:
        for tag, task in _taken(client, queue):
            try:
                meta = app.backend.get_task_meta(task)
                holder = meta["result"] if isinstance(meta["result"], dict) else {}
                what = fate(str(meta["status"]), holder, worker, lives, alone)
                if what is Fate.LOST:
                    lost = WorkerLostError(f"worker {worker} was killed while it ran this task")
                    app.backend.store_result(task, lost, states.FAILURE)
            except SQLAlchemyError as err:
                raise Unavailable(
                    f"the results of Celery's tasks do not answer ({type(err).__name__}): see logs/postgres.log, "
                    f"or setting airflow_database"
                ) from err
            if what is Fate.LOST:
                client.pipeline().zrem(UNACKED_INDEX, tag).hdel(UNACKED, tag).execute()
            elif what is Fate.UNBEGUN:
                with app.connection_for_write() as connection:
                    connection.default_channel.qos.restore_by_tag(tag)
            if what is not Fate.HELD:
                found[task] = what
    return found


def _taken(client: Any, queue: str) -> Iterator[tuple[str, str]]:
    """(delivery tag, id of the task) of each message of the queue that some worker has taken."""
    for tag, entry in client.hgetall(UNACKED).items():
        message, _, routing_key = json.loads(entry)[:3]
        if routing_key == queue:
            yield tag, str(message["headers"]["id"])

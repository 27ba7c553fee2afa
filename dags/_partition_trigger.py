"""Wait for a partition's manifest without holding a worker: the triggerer asks the store, until the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSensorTimeout
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tasks.domain.errors import Unavailable
from tasks.settings import Settings


def _is_landed(key: str) -> bool:
    from tasks.refresh import is_landed

    return is_landed(key, Settings())


class PartitionTrigger(BaseTrigger):
    """Fires once: landed, or not landed by the deadline. A store that does not answer is asked again until then."""

    def __init__(self, key: str, deadline: str, every_s: float) -> None:
        super().__init__()
        self.key, self.deadline, self.every_s = key, deadline, every_s

    def serialize(self) -> tuple[str, dict[str, Any]]:
        given = {"key": self.key, "deadline": self.deadline, "every_s": self.every_s}
        return "_partition_trigger.PartitionTrigger", given

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            try:
                landed, why = await asyncio.to_thread(_is_landed, self.key), "it is not there"
            except Unavailable as err:
                landed, why = False, str(err)
            if landed or datetime.now(UTC) >= datetime.fromisoformat(self.deadline):
                yield TriggerEvent({"landed": landed, "why": why})
                return
            await asyncio.sleep(self.every_s)


class PartitionLanded(BaseSensorOperator):
    """Green once the manifest of the day that `ingested` is about exists; fails, without a retry, at the deadline."""

    template_fields = ("ingested",)

    def __init__(self, *, ingested: Any, every_s: float = 15, **operator: Any) -> None:
        super().__init__(**operator)
        self.ingested, self.every_s = ingested, every_s

    def execute(self, context: Any) -> None:
        from tasks.refresh import landing_key

        partition, key = landing_key(self.ingested, Settings())
        if _is_landed(key):
            self.log.info("partition=%s outcome=landed", partition)
            return
        wait = timedelta(seconds=self.timeout)
        deadline = (datetime.now(UTC) + wait).isoformat(timespec="seconds")
        self.log.info("partition=%s outcome=waiting key=%s deadline=%s", partition, key, deadline)
        self.defer(
            trigger=PartitionTrigger(key, deadline, self.every_s),
            method_name="landed_or_late",
            kwargs={"partition": partition, "key": key},
            timeout=wait + timedelta(minutes=10),  # the trigger keeps the deadline; this only ends one that hangs
        )

    def landed_or_late(self, context: Any, event: dict[str, Any], partition: str, key: str) -> None:
        if not event["landed"]:
            raise AirflowSensorTimeout(
                f"{partition} did not land within {timedelta(seconds=self.timeout)}: {key}: {event['why']}. The "
                f"champion keeps serving; land the day and clear this task"
            )
        self.log.info("partition=%s outcome=landed", partition)

"""`python -m tasks.registry_mirror`: keeps MLflow's picture true: what waits is written, and the aliases follow the log.

A process of its own, so that an MLflow that hangs holds up nobody: neither a step nor a rollback. It reads the controller
and the store, and writes to MLflow only. Level-triggered: an alias that somebody moved by hand, or that went with
a deleted version, is put right in the next pass.
"""

from __future__ import annotations

import logging
import sys
import time

from tasks import telemetry_off
from tasks.adapters.mlflow_registry import MlflowRegistry
from tasks.adapters.registry import Registry
from tasks.adapters.store import Store, open_store
from tasks.controller.client import ControllerClient
from tasks.domain.errors import FreshrankError
from tasks.record import mirror, mirror_serving
from tasks.settings import Settings

log = logging.getLogger("freshrank.registry_mirror")
PERIOD_S = 10.0
LONGEST_PAUSE_S = 120.0


def reconcile(controller: ControllerClient, registry: Registry, store: Store, settings: Settings) -> dict[str, str]:
    """One pass; alias -> what was changed. Raises Unavailable when one of the three does not answer: try again later."""
    mirror(settings, registry, store).flush()
    changed = mirror_serving(registry, store, controller.status())
    for alias, change in changed.items():
        log.info("alias=%s change=%r why=the rollout log says so", alias, change)
    return changed


def main() -> int:
    telemetry_off.apply()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings()
    controller, registry, store = ControllerClient(settings), MlflowRegistry(settings), open_store(settings)
    pause, said = PERIOD_S, ""
    while True:
        try:
            reconcile(controller, registry, store, settings)
            pause, said = PERIOD_S, ""
        except FreshrankError as err:
            if str(err) != said:
                log.warning("outcome=not-mirrored error=%r; serving is not affected", str(err))
            pause, said = min(pause * 2, LONGEST_PAUSE_S), str(err)
        time.sleep(pause)


if __name__ == "__main__":
    sys.exit(main())

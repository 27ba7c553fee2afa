"""`python -m tasks.controller`: the HTTP door and the reconcile loop in one process.

Replicas outlive it; the next one adopts them.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import sys
from contextlib import suppress

import uvicorn

from tasks import firing
from tasks.adapters.launcher import Launcher, SeveralLauncher
from tasks.adapters.processes import ProcessLauncher
from tasks.adapters.router import EnvoyFileRouter, Router
from tasks.adapters.shelf import Shelf
from tasks.adapters.signing import public_keys
from tasks.adapters.store import open_store
from tasks.controller.api import create_app
from tasks.controller.collect import Collector
from tasks.controller.commands import Commands
from tasks.controller.console import Console
from tasks.controller.judge import HttpReader
from tasks.controller.live import Live
from tasks.controller.log import open_log
from tasks.controller.pull import ReleaseLibrary
from tasks.controller.reconcile import Reconciler
from tasks.domain.errors import FreshrankError, InputRejected
from tasks.settings import Settings

log = logging.getLogger("tasks.controller")


async def serve(settings: Settings) -> None:
    """Run until SIGTERM. Refuses to move traffic by a log that was tampered with."""
    rollout_log = open_log(settings.data, settings.rollout_log)
    rollout_log.verify()
    library = ReleaseLibrary(
        settings.data / "serving", lambda: open_store(settings), public_keys(settings), settings.url("valkey")
    )
    router, launcher = _world(settings, library)
    reconciler = Reconciler(
        log=rollout_log,
        router=router,
        launcher=launcher,
        library=library,
        reader=HttpReader(),
    )
    commands, live = Commands(reconciler, settings.policy, settings.home), Live(router)
    pages = settings.data / "controller" / "decisions"
    console = Console(commands, reconciler, live, alerts=lambda: firing.read(settings)[0], decisions=pages)
    app = create_app(commands, settings.secrets.controller_token, console.routes())
    port = settings.port("controller")
    server = uvicorn.Server(
        uvicorn.Config(
            app, host=settings.bind, port=port, log_config=None, access_log=False, timeout_graceful_shutdown=5
        )
    )
    collector = Collector(reconciler, Shelf(settings.data / "serving"), settings.logs, library.retire)
    loops = [asyncio.create_task(part.run()) for part in (reconciler, live, collector)]
    log.info("event=started port=%d revision=%d", port, reconciler.state().revision)
    try:
        await server.serve()
    finally:
        for loop in loops:
            loop.cancel()
            with suppress(asyncio.CancelledError):
                await loop
        running = sum(len(one.all) for one in reconciler.launcher.replicas().values())
        log.info("event=stopped replicas=%d still running", running)


def _world(settings: Settings, library: ReleaseLibrary) -> tuple[Router, Launcher]:
    """Where traffic and replicas are: Envoy and processes of this machine, or a route and Deployments of this cluster."""
    if settings.kubernetes_route is None:
        several = [ProcessLauncher(settings, library.verify, n, settings.replicas) for n in range(settings.replicas)]
        return EnvoyFileRouter(settings), SeveralLauncher(several)
    if settings.kubernetes_objects is None or not settings.kubernetes_objects.is_file():
        raise InputRejected(
            f"kubernetes_route is {settings.kubernetes_route}, but kubernetes_objects ({settings.kubernetes_objects}) is no "
            f"file; the chart mounts it from the ConfigMap of the rankers' objects"
        )
    from tasks.adapters.kubernetes_api import in_cluster
    from tasks.adapters.kubernetes_launcher import KubernetesLauncher
    from tasks.adapters.kubernetes_router import GatewayApiRouter

    api, pattern = in_cluster("kubernetes_route", "use the local Envoy"), settings.kubernetes_objects.read_text()
    return GatewayApiRouter(api, settings.kubernetes_route), KubernetesLauncher(api, pattern, library.verify)


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpcore", "botocore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = Settings()
        # replicas run in the release's directory: a relative home would mean another place there
        settings = settings.model_copy(update={"home": settings.home.resolve()})
        lock = settings.data / "controller" / "lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                why = f"another controller of {settings.home} is running; only one may move traffic"
                raise InputRejected(why) from None
            asyncio.run(serve(settings))
    except FreshrankError as err:
        log.error("event=refused why=%s", err)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The fast entry: uvicorn with uvloop and httptools, our hot routes first, BentoML's pages behind them.

Runs from a release's `src` directory, so that the code that was packaged is the code that serves:
    python -B -m bentos.ranker --release SRC/release --view VIEW --port 28020 --replica r1 --secrets HOME/secrets.json
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

# one thread a replica, fixed before numpy loads: spinning BLAS threads tripled the CPU time of a request
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
for _variable, _value in (("BENTOML_DO_NOT_TRACK", "True"), ("OTEL_SDK_DISABLED", "true")):
    os.environ[_variable] = _value

if TYPE_CHECKING:
    from bentos.ranker.pages import BentoPages
    from tasks.serving.replica import Replica, ReplicaOptions

log = logging.getLogger("freshrank.serving")
HOST = "127.0.0.1"
KEEP_ALIVE_S = 120  # longer than the router keeps an idle connection: the router must be the one to close
FINISH_S = 10
LOADING_NICE = (
    10  # of the thread that checks, loads and warms up; the engine's and the event loop's are as they were started
)
SWITCH_INTERVAL_S = 0.0005  # of the interpreter between the event loop and the engine; 5 ms would show in p99


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM. 0 after a clean stop, 1 when the release is not fit to serve, 2 for a taken port."""
    options, args = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s level=%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    foreign = _foreign_code(options.src)
    if foreign is not None:
        return _sorry(f"{foreign} would serve, not the release's own code; start it with SRC as working directory", 1)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((args.host, args.port))
    except OSError as err:
        return _sorry(f"port {args.port} on {args.host} cannot be used: {err.strerror}; choose another with --port", 2)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return _serve(options, listener, args.drain_s)


def _options(arguments: list[str] | None) -> tuple[ReplicaOptions, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="python -m bentos.ranker", description="serve one release")
    add = parser.add_argument
    add("--release", type=Path, required=True, metavar="SRC/release", help="release directory; its parent is SRC")
    add("--view", type=Path, help="directory of the users' histories that belongs to the release")
    add("--port", type=int, required=True)
    add("--host", default=HOST)
    add("--replica", required=True, help="name of this process in /readyz, metrics and feedback files")
    add("--digest", help="refuse to serve any other release than this")
    add("--public-keys", type=Path, help="PEM file; refuse to serve a release that none of these keys signed")
    add("--secrets", type=Path, help="secrets.json; only pseudonym_key is read. Without it every user is unknown")
    add("--valkey", help="URL of the online store; without it the view's snapshot answers")
    add("--spool", type=Path, help="directory for feedback; without it feedback is only shown to the judge")
    add("--store-config", type=Path, help="JSON file that names the bucket feedback goes to")
    add(
        "--merchandising",
        type=Path,
        help="folder of the merchandising rules; without it lists are as the model ranks them",
    )
    add("--deadline-ms", type=float, default=100.0, help="after this no further ranking stage is begun")
    add("--queue", type=int, default=64, help="requests that may wait; more are refused with 503")
    add("--threads", type=int, default=1, help="inference threads")
    add("--drain-s", type=float, default=1.0, help="time between not-ready and the last accepted request")
    args = parser.parse_args(arguments)
    from tasks.serving.replica import ReplicaOptions

    options = ReplicaOptions(
        src=args.release.resolve().parent,
        name=args.replica,
        view=args.view,
        expected_digest=args.digest,
        public_keys=args.public_keys,
        secrets=args.secrets,
        valkey_url=args.valkey,
        spool=args.spool,
        store_config=args.store_config,
        merchandising=args.merchandising,
        port=args.port,
        deadline_ms=args.deadline_ms,
        queue=args.queue,
        threads=args.threads,
    )
    return options, args


def _serve(options: ReplicaOptions, listener: socket.socket, drain_s: float) -> int:
    import uvicorn

    from bentos.ranker.fast_path import FastPath
    from bentos.ranker.pages import BentoPages
    from tasks.serving.replica import Replica

    replica = Replica(options)
    pages = BentoPages(replica)
    config = uvicorn.Config(
        FastPath(replica, pages),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_S,
    )
    server = _server_class(uvicorn)(config, replica, pages, drain_s)
    failure: list[str] = []
    threading.Thread(target=_load, args=(replica, server, failure), name="load", daemon=True).start()
    server.run(sockets=[listener])
    replica.close()
    if failure:
        return _sorry(failure[0], 1)
    return 0


def _load(replica: Replica, server: Any, failure: list[str]) -> None:
    from tasks.domain.errors import FreshrankError
    from tasks.serving.replica import log_failure

    if sys.platform == "linux":  # of this thread alone: who loads must not take the machine from those who answer
        nice = max(os.getpriority(os.PRIO_PROCESS, 0), LOADING_NICE)
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    try:
        replica.load()
        _settle_garbage()
    except FreshrankError as err:
        failure.append(str(err))
    except Exception as err:
        log_failure(err)
        failure.append(f"the release could not be loaded ({type(err).__name__}: {err}); serve the previous one")
    if failure:
        server.should_exit = True


def _settle_garbage() -> None:
    """What was loaded stays until the end, so the collector need not walk over it: that was a third of a cheap request."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _server_class(uvicorn: Any) -> Any:
    class Server(uvicorn.Server):
        """On the first signal: not ready, answer on for `drain_s`, finish what is in flight. On the second: at once."""

        def __init__(self, config: Any, replica: Replica, pages: BentoPages, drain_s: float) -> None:
            super().__init__(config)
            self._pages = pages
            self._replica = replica
            self._drain_s = drain_s
            self._loop: asyncio.AbstractEventLoop | None = None

        async def serve(self, sockets: list[socket.socket] | None = None) -> None:
            self._loop = asyncio.get_running_loop()
            await super().serve(sockets)
            await self._pages.close()

        def handle_exit(self, sig: int, frame: Any) -> None:
            if self._replica.state in ("loading", "broken", "draining") or self._loop is None:
                super().handle_exit(sig, frame)
                return
            self._loop.call_soon_threadsafe(self._drain)

        def _drain(self) -> None:
            log.info("replica=%s state=draining", self._replica.options.name)
            self._replica.drain()
            assert self._loop is not None
            self._loop.call_later(self._drain_s, setattr, self, "should_exit", True)

    return Server


def _foreign_code(src: Path) -> str | None:
    """The file that would serve instead of the release's own code, if any."""
    import tasks

    if not (src / "tasks").is_dir():  # a bare release directory, in tests: nothing to prefer
        return None
    loaded = Path(str(tasks.__file__)).resolve()
    return None if loaded.is_relative_to(src.resolve()) else str(loaded)


def _sorry(text: str, code: int) -> int:
    sys.stderr.write(f"ranker: {text}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

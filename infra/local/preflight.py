"""What would make a start fail anyway, said in one sentence before anything is started."""

from __future__ import annotations

import errno
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path

import psutil

from infra.local.services import ServiceSpec
from tasks.domain.errors import InputRejected, Unavailable
from tasks.settings import Settings

FREE_BYTES = 2 << 30


def check(table: dict[str, ServiceSpec], settings: Settings) -> None:
    """Raise the first thing that is in the way. All taken ports are reported together."""
    missing = sorted({p for spec in table.values() for p in spec.packages if find_spec(p) is None})
    if missing:
        raise InputRejected(f"not installed in this environment: {', '.join(missing)}; run `make setup`")
    enough_space(settings.home)
    taken = [line for spec in table.values() for line in taken_ports(spec)]
    if taken:
        raise Unavailable(
            f"{'; '.join(taken)}. Stop what holds {'it' if len(taken) == 1 else 'them'}, or move all ports of this "
            f"stack: set FRESHRANK_PORT_BASE (now {settings.port_base}) to another number. Nothing was started"
        )


def enough_space(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < FREE_BYTES:
        raise Unavailable(
            f"the disk of {home} has {free / 2**30:.1f} GiB free and the stack needs 2 GiB; "
            f"free some space or set FRESHRANK_HOME to another disk. Nothing was started"
        )


def taken_ports(spec: ServiceSpec) -> list[str]:
    taken = {name: port for name, port in spec.ports.items() if is_taken(port)}
    return [f"port {port} ({name} of {spec.name}) is taken{_by_whom(port)}" for name, port in taken.items()]


def is_taken(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as servers do: a port whose old connections fade out is free
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError as err:
            return err.errno in (errno.EADDRINUSE, errno.EACCES)
    return False


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                process = psutil.Process(connection.pid)
                return f" by {process.name()} (pid {process.pid})"
    except psutil.Error:
        pass
    return " by a process of another user"

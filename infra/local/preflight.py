"""What would make a start fail anyway, said in one sentence before anything is started."""

from __future__ import annotations

from pathlib import Path

from infra.local.services import ServiceSpec
from tasks import machine
from tasks.adapters import edge_files
from tasks.domain.errors import InputRejected, Unavailable
from tasks.settings import Settings


def check(table: dict[str, ServiceSpec], settings: Settings) -> None:
    """Raise the first thing that is in the way. All taken ports are reported together."""
    missing = machine.missing_modules({package for spec in table.values() for package in spec.packages})
    if missing:
        raise InputRejected(f"not installed in this environment: {', '.join(missing)}; run `make setup`")
    enough_space(settings.home)
    if "envoy" in table:
        edge_files.check(settings)
    taken = [line for spec in table.values() for line in taken_ports(spec)]
    if taken:
        raise Unavailable(
            f"{'; '.join(taken)}. Stop what holds {'it' if len(taken) == 1 else 'them'}, or move all ports of this "
            f"stack: set FRESHRANK_PORT_BASE (now {settings.port_base}) to another number. Nothing was started"
        )


def enough_space(home: Path) -> None:
    free = machine.free_bytes(home)
    if free < machine.NEEDED_BYTES:
        raise Unavailable(
            f"the disk of {home} has {free / 2**30:.1f} GiB free and the stack needs "
            f"{machine.NEEDED_BYTES / 2**30:.0f} GiB; free some space or set FRESHRANK_HOME to another disk. "
            f"Nothing was started"
        )


def taken_ports(spec: ServiceSpec) -> list[str]:
    taken = {name: port for name, port in spec.ports.items() if machine.is_taken(port)}
    return [
        f"port {port} ({name} of {spec.name}) is taken by {machine.described(machine.holder(port))}"
        for name, port in taken.items()
    ]

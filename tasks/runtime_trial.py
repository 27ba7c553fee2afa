"""Every runtime that can open a release, on its golden requests, in turns, on the host where it is packaged.

A runtime is no other model: one that does not give the golden answers, which are those that were judged, may not serve
however fast it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tasks.domain.requests import RankRequest, convert_rank
from tasks.domain.runtime_choice import DEFAULT, Trial, choose
from tasks.ranker.device import RUNTIMES, TORCH, open_scorer
from tasks.ranker.runtime import read_config
from tasks.ranker.state import ItemState
from tasks.serving.engine import Engine
from tasks.serving.golden import Golden, first_difference
from tasks.serving.guarded import Guarded

log = logging.getLogger("freshrank.package")
ROUNDS = 20
UNQUANTISED = "fp32"


def try_runtimes(release: Path) -> tuple[str, list[Trial]]:
    """The runtime to serve by, and what each took: CPU time of whole requests, features included, one thread.

    Args:
        release: directory with model/, items/ and golden.json. Search has encoders of its own and is left out.
    """
    golden = msgspec.json.decode((release / "golden.json").read_bytes(), type=Golden)
    cases = [case for case in golden.cases if case.request["surface"] == "recommendation"]
    requests = [convert_rank(case.request) for case in cases]
    items, engines, refused = ItemState.load(release / "items"), dict[str, Engine](), dict[str, str]()
    judged = read_config(release / "model").get("variant", {}).get("name", UNQUANTISED)
    for name in RUNTIMES:
        if name == TORCH and judged != UNQUANTISED:  # and seconds of import are saved
            refused[name] = f"it runs the unquantised weights, another model than {judged}, which was judged"
            continue
        try:
            scorer = open_scorer(release / "model", runtime=name)
            Guarded(scorer).prepare()
            engine = Engine(items, scorer)
            other = first_difference(engine, cases, golden.tolerance)
        except Exception as err:  # runtimes raise what they like; one less is no broken run
            if name == DEFAULT:
                raise
            other = f"could not be opened here: {str(err).splitlines()[0] if str(err) else type(err).__name__}"
        if other:
            refused[name] = other
        else:
            engines[name] = engine
    chosen, trials = choose(cpu_of_rounds(engines, requests), refused)
    for trial in trials:
        log.info("runtime=%s cpu_ms=%s ratio=%s %s", trial.name, trial.cpu_ms, trial.ratio, trial.reason or "chosen")
    return chosen, trials


def cpu_of_rounds(engines: Mapping[str, Engine], requests: Sequence[RankRequest]) -> dict[str, list[float]]:
    """CPU ms of all requests in each round, the engines in turn. The first round, which compiles kernels, does not count."""
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(ROUNDS + 1):
        for name in sorted(engines, reverse=turn % 2 == 1):
            began = time.process_time()
            for request in requests:
                engines[name].rank(request)
            if turn:
                spent[name].append(1e3 * (time.process_time() - began))
    return spent

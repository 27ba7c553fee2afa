"""Latency of a candidate against the champion's on the same requests: ratios with bounds that hold at every look together. Pure.

Pairs come in sittings: every system is loaded anew, warmed up, and answers the same requests in turns. Two loads of one
release differ by about 1 % for as long as they live (where their memory lies), and a machine is slow for seconds at a time;
so sittings are resampled, never pairs (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013; cluster
bootstrap: Field and Welsh, JRSS B 2007). A bound is the log ratio and its bootstrap standard error times Student's t with a
degree of freedom less than sittings.

Pairs are added until it is clear, so the error is spent over the looks that are planned: the share of alpha that a look may
use is its share of all pairs (Kim and DeMets, Biometrika 1987, rho = 1). The looks' errors simply add up, whatever the
dependence between them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.domain.evidence import LatencyRatio
from tasks.domain.statistics import Floats, deviation

SITTING = 64  # pairs
LOOKS = (16, 32, 64, 128)  # sittings after which it is asked whether it is clear; after the last one it stays unclear
ALPHA = 0.05
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
CPU = "cpu"  # of the mean request: work that seldom comes and takes long counts too
NAMES = (*QUANTILES, CPU)
TAIL = 10  # a quantile with fewer pairs beyond it is not told
RESAMPLES, MARKS = 1_000, 128
MOST_GROWTH = 1.10  # of a state that a limit grows with; a larger one is for a person to look at
TICKS = 10_000  # a millisecond; times are whole ticks, so that sums are exact on every processor


def allowed_ratio(limit: float, growth: float) -> float:
    """A limit for a state `growth` times the champion's. What came in is nobody's regression, and refusing it does not end it:
    the next day's state is larger still, and the service would never be fresh again (docs/adr/0057)."""
    return round(limit * min(max(growth, 1.0), MOST_GROWTH), 4)


def alpha_at(pairs: int) -> float:
    """One-sided error that may be spent at a look, so that no more than ALPHA is spent up to the last one."""
    ends = [look * SITTING for look in LOOKS]
    earlier = max((end for end in ends if end < pairs), default=0)
    now = min((end for end in ends if end >= pairs), default=pairs)
    return ALPHA * (now - earlier) / max(ends[-1], now)


def ratios(
    champion: Floats,
    candidate: Floats,
    champion_cpu: Floats,
    candidate_cpu: Floats,
    seed: int,
    names: Collection[str] = NAMES,
) -> list[LatencyRatio]:
    """p50, p95 and p99 of the wall time and the mean CPU time, candidate / champion, each with bounds.

    Args:
        champion, candidate, champion_cpu, candidate_cpu: [pairs] float, ms of the same requests in the order of time. All of
            the champion's that have no partner are left out.
        names: which of NAMES are wanted.

    A quantile with fewer than TAIL pairs beyond it is left out.
    """
    pairs = len(candidate)
    sitting = sittings_of(pairs)
    count = int(sitting[-1]) + 1
    draws = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    times = np.bincount((draws + np.arange(RESAMPLES)[:, None] * count).ravel(), minlength=RESAMPLES * count)
    times = times.reshape(RESAMPLES, count)
    width = _student(1 - alpha_at(pairs), count - 1)
    told = {name: q for name, q in QUANTILES.items() if name in names and math.floor(pairs * (1 - q) + 1e-9) >= TAIL}
    sides = (champion[:pairs], candidate)
    walls = [_quantiles(_ticks(one), sitting, times, list(told.values())) for one in sides]
    rows = [(name, [side[n] for side in walls]) for n, name in enumerate(told)]
    if CPU in names:
        rows.append((CPU, [_means(_ticks(one), sitting, times) for one in (champion_cpu[:pairs], candidate_cpu)]))
    return [_row(name, sides, width, pairs) for name, sides in rows]


def sittings_of(pairs: int) -> NDArray[np.int64]:
    """[pairs] number of the sitting of each pair. Fewer pairs than the first look's are cut into as many parts as it has."""
    count = max(pairs // SITTING, min(LOOKS[0], pairs))
    return np.arange(pairs) * count // pairs


def is_clear(rows: Sequence[LatencyRatio], limits: Mapping[str, float]) -> bool:
    """No more pairs are needed: one ratio is shown to be beyond its limit, or all are shown to be within."""
    found = {row.name: row for row in rows}
    if any(found[name].lower > limit for name, limit in limits.items() if name in found):
        return True
    return all(name in found and found[name].upper <= limit for name, limit in limits.items())


def _row(name: str, sides: list[tuple[int, NDArray[np.int64]]], width: float, pairs: int) -> LatencyRatio:
    (one, ones), (other, others) = sides
    logs = [math.log(b / a) for a, b in zip(ones.tolist(), others.tolist(), strict=True)]
    ratio, error = other / one, width * deviation(np.array(logs))
    return LatencyRatio(
        name=name,
        champion_ms=one / TICKS,
        candidate_ms=other / TICKS,
        ratio=round(ratio, 6),
        lower=round(ratio * math.exp(-error), 6),
        upper=round(ratio * math.exp(error), 6),
        pairs=pairs,
    )


def _ticks(times: Floats) -> NDArray[np.int64]:
    return np.maximum(np.rint(times * TICKS), 1).astype(np.int64)


def _quantiles(
    values: NDArray[np.int64], sitting: NDArray[np.int64], times: NDArray[np.int64], qs: list[float]
) -> list[tuple[int, NDArray[np.int64]]]:
    """Of all pairs, and of each resample: the smallest value that a share q does not exceed."""
    order = np.argsort(values, kind="stable")
    ranked, whose = values[order], sitting[order]
    # how many values up to each mark a resample holds; the exact place is then looked for between two marks only
    marks = np.linspace(0, len(values), min(MARKS, len(values)) + 1).astype(np.int64)
    upto = np.zeros((times.shape[1], len(marks)))
    np.add.at(upto, (whose, np.searchsorted(marks, np.arange(len(values)), side="right")), 1)
    held = times.astype(np.float64) @ np.cumsum(upto, axis=1)  # [resamples, marks]; whole numbers, so exact
    found = []
    for q in qs:
        wanted = np.ceil(q * held[:, -1] - 1e-9)
        cells = (held < wanted[:, None]).sum(axis=1) - 1
        first, last = int(cells.min()), int(cells.max()) + 1
        between = times.astype(np.int32)[:, whose[marks[first] : marks[last]]].cumsum(axis=1)
        place = marks[first] + (between < (wanted - held[:, first])[:, None]).sum(axis=1)
        found.append((int(ranked[math.ceil(q * len(values) - 1e-9) - 1]), ranked[place]))
    return found


def _means(
    values: NDArray[np.int64], sitting: NDArray[np.int64], times: NDArray[np.int64]
) -> tuple[int, NDArray[np.int64]]:
    """Mean ticks of all pairs, and of each resample; in whole ticks."""
    count = times.shape[1]
    sums = np.zeros(count, np.int64)
    np.add.at(sums, sitting, values)
    sizes = np.bincount(sitting, minlength=count)
    return round(int(values.sum()) / len(values)), (times @ sums) // (times @ sizes)


def _student(share: float, degrees: int) -> float:
    from scipy.special import stdtrit  # half a second that most users of this module do not need

    return float(stdtrit(degrees, share))

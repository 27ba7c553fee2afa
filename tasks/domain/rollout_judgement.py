"""Judge a challenger on live evidence, against the champion over the same window. Missing evidence is never a pass.

Soft rules fail on bounds that hold at every look together (tasks.domain.confidence_sequence), so a good release is stopped
with a probability of `FALSE_ABORTS` at most over a whole rollout, however often it is looked at. Hard guards act at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from tasks.domain.confidence_sequence import Sketch, mean_bounds, quantile_exceeds
from tasks.domain.gate import Outcome
from tasks.domain.live_evidence import Finding, Sample, Window
from tasks.domain.manifest import Record
from tasks.domain.rollout import RolloutPolicy

FALSE_ABORTS = 0.01  # probability that the soft rules ever stop a release that is no worse, over a whole rollout
RULES = 18  # soft rules that share what a step may spend of it (Bonferroni)
LEANS = 0.2  # held, not failed, while what was seen is as unlikely as this for a challenger that is good enough
GROSS = 0.25  # hard guard: surely more than this share of requests failed, whatever the champion does
FEW_COPIES = (
    0.5  # of the requests: where fewer were judged, the challenger was not tried under what its users would send
)
MORE = 10  # times the usual number of copies must then be judged
RARE = 0.01  # share of lists worked out, of a release that keeps nearly all: no quantile that is judged shows them
WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)
QUANTILES = (("p50", 0.50), ("p95", 0.95), ("p99", 0.99))


class Judgement(Record):
    """All findings; the worst one wins, and none at all is inconclusive."""

    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        return "; ".join(f.said for f in self.findings if f.outcome is self.outcome) or "no evidence yet"


def alpha_of(policy: RolloutPolicy, *, shadow: bool, warming: bool = False) -> float:
    """The probability with which one rule in one step may stop a good release. Half of it all is for the shadow, which gets every
    request and whose findings cost no user anything; the warm-up and the steps in front of users share the other half."""
    others = policy.last_step + (policy.warm_up_s > 0)
    return FALSE_ABORTS / (2 * RULES) / (1 if shadow and not warming else others)


def judge(policy: RolloutPolicy, window: Window, *, shadow: bool, warming: bool = False) -> Judgement:
    """Hold the window against the policy. Where both answer the same requests, their answers are compared too: in shadow,
    which is held until there are enough, and at 100 %, where the champion gets the copies. A challenger that warms up is
    held, and stopped for what it answers, not for how fast or how often it fails: a burst that hits both weighs more on the one
    whose share of the requests has just doubled."""
    ours, theirs = window.challenger, window.champion
    alpha = alpha_of(policy, shadow=shadow, warming=warming)
    compared = shadow or window.paired >= policy.min_requests
    findings = [
        _restarts(policy, window),
        _scores(window),
        _gross(ours, alpha),
        _enough(policy, window),
        *([_warm_up(ours)] if warming else [_rate(*rule, ours, theirs, alpha) for rule in _rates(policy)]),
        *([_copies(policy, window)] if shadow else []),
        *([] if warming else _latencies(policy, window, alpha, shadow=shadow)),
        _level(ours, theirs, alpha),
        _spread(ours, theirs, alpha),
        *([_overlap(policy, window, alpha), _correlation(policy, window, alpha)] if compared else []),
        *_online(policy, ours, theirs, alpha),
    ]
    outcome = next(worst for worst in WORST_FIRST if any(f.outcome is worst for f in findings))
    return Judgement(outcome=outcome, findings=tuple(findings))


Rule = tuple[str, str, str, str, float]


def _rates(policy: RolloutPolicy) -> tuple[Rule, ...]:
    """Name, words, what is counted, of what, and the share that is allowed."""
    return (
        ("error_rate", "requests failed", "errors", "requests", policy.max_error_rate),
        ("timeout_rate", "requests timed out", "timeouts", "requests", policy.max_timeout_rate),
        ("refused_rate", "answers are refusals", "refused", "answered", policy.max_refused_rate),
        ("short_rate", "lists are short", "short", "slates", policy.max_short_rate),
        ("empty_rate", "lists are empty", "empty", "slates", policy.max_short_rate),
    )


def _count(sample: Sample, what: str, of: str) -> tuple[int, int]:
    count = int(getattr(sample, what))
    return count, max(int(getattr(sample, of)), count)  # a refused connection is an error that never became a request


def _ratios(policy: RolloutPolicy) -> tuple[float, float, float]:
    p95 = policy.max_latency_ratio_p95
    return policy.max_latency_ratio_p50, p95, policy.max_latency_ratio_p99 or p95


def _enough(policy: RolloutPolicy, window: Window) -> Finding:
    seen = window.challenger.requests
    outcome = Outcome.PASS if seen >= policy.min_requests else Outcome.INCONCLUSIVE
    said = f"challenger answered {seen} of {policy.min_requests} requests needed"
    return Finding(name="requests", outcome=outcome, said=said)


def _copies(policy: RolloutPolicy, window: Window) -> Finding:
    """Copies yield to users, down to one in a hundred requests, and a refused one is nobody's answer: what counts is how many
    were answered by both, and for how many different users, of whom a shop with few has half."""
    judged, asked = window.paired, window.champion.slates
    few = judged < FEW_COPIES * asked
    needed = policy.min_requests * (MORE if few else 1)
    users, users_needed = len(window.paired_of), min(policy.min_requests, (len(window.asked_by) + 1) // 2)
    enough = judged >= needed and users >= users_needed
    said = f"{judged} of {asked} requests were copied and answered by both ({needed} needed{' of so small a share' if few else ''})"
    if users_needed:
        said += f", for {users} different users ({users_needed} needed)"
    return Finding(name="copies", outcome=Outcome.PASS if enough else Outcome.INCONCLUSIVE, said=said)


def _restarts(policy: RolloutPolicy, window: Window) -> Finding:
    outcome = Outcome.FAIL if window.restarts > policy.max_restarts else Outcome.PASS
    return Finding(name="restarts", outcome=outcome, said=f"{window.restarts} crashes (allowed {policy.max_restarts})")


def _scores(window: Window) -> Finding:
    slates = window.challenger.slates
    if window.unusable:
        said = f"{window.unusable} of {slates} slates hold a score that is not a finite number"
        return Finding(name="scores", outcome=Outcome.FAIL, said=said)
    if window.constant * 2 > slates:
        said = f"{window.constant} of {slates} slates give every item the same score"
        outcome = Outcome.FAIL if window.constant >= 3 else Outcome.INCONCLUSIVE
        return Finding(name="scores", outcome=outcome, said=said)
    return Finding(name="scores", outcome=Outcome.PASS, said=f"{slates} slates with finite, distinct scores")


def _gross(ours: Sample, alpha: float) -> Finding:
    """Of a champion that has trouble too, or that nobody asks, nothing need be known."""
    failed, requests = _count(ours, "errors", "requests")
    lower, _ = mean_bounds(failed, requests, alpha)
    outcome = Outcome.FAIL if lower > GROSS else Outcome.PASS
    return Finding(
        name="gross_errors", outcome=outcome, said=f"{failed} of {requests} requests failed (guard {GROSS:.0%})"
    )


def _rate(
    name: str, words: str, what: str, of: str, allowed: float, one: Sample, other: Sample, alpha: float
) -> Finding:
    """Fails when the challenger's rate is surely above both the allowed one and the champion's; holds when it looks so.

    What troubles the champion too (a bad client, a full disk) is not the challenger's fault.
    """
    ours, theirs = _count(one, what, of), _count(other, what, of)
    base = _share(theirs)
    said = f"{ours[0]} of {ours[1]} {words} (allowed {max(allowed, base):.2%})"
    if _share(ours) <= max(allowed, base):  # no bound below it is above, and bounds take most of a look's time
        return Finding(name=name, outcome=Outcome.PASS, said=said)
    lower, _ = mean_bounds(*ours, alpha / 2)
    _, upper = mean_bounds(*theirs, alpha / 2)
    if lower > max(allowed, upper):
        return Finding(
            name=name, outcome=Outcome.FAIL, said=f"{said}: surely above {lower:.2%}, champion below {upper:.2%}"
        )
    leans = mean_bounds(*ours, LEANS)[0] > max(allowed, base)
    return Finding(name=name, outcome=Outcome.INCONCLUSIVE if leans else Outcome.PASS, said=said)


def _share(of: tuple[float, int]) -> float:
    return of[0] / of[1] if of[1] else 0.0


def _warm_up(ours: Sample) -> Finding:
    said = f"caches fill, {ours.slates} copies answered so far and {ours.no_room} refused; speed and rates are not judged yet"
    return Finding(name="warm_up", outcome=Outcome.INCONCLUSIVE, said=said)


def _latencies(policy: RolloutPolicy, window: Window, alpha: float, *, shadow: bool) -> list[Finding]:
    """Like with like: a kept answer takes a hundredth of one that is worked out, and how many are kept depends on how much
    traffic a release gets and since when, not on what it is. Live steps judge what there is; no shadow passes without."""
    ours, theirs = window.challenger, window.champion
    kinds = {"latency": (ours.latencies_ms, theirs.latencies_ms), "latency_kept": (ours.kept_ms, theirs.kept_ms)}
    enough = {kind: pair for kind, pair in kinds.items() if min(one.count for one in pair) >= policy.min_requests}
    found = [
        _latency(f"{kind}_{name}", q, ratio, policy, *pair, alpha)
        for kind, pair in enough.items()
        for (name, q), ratio in zip(QUANTILES, _ratios(policy), strict=True)
    ]
    if not enough or (shadow and not _whole(policy, ours, theirs)):
        said = f"latency: timed {_timed(ours)}, champion {_timed(theirs)}; {policy.min_requests} of the same kind needed of each"
        found.append(Finding(name="latency", outcome=Outcome.INCONCLUSIVE, said=said + ", by every stage" * shadow))
    return found


def _whole(policy: RolloutPolicy, ours: Sample, theirs: Sample) -> bool:
    """Enough lists were worked out by every stage; or one of the two keeps nearly all that it is asked for (a site with few users,
    who are prefetched, or whose visitors are all anonymous), and then kept answers are what users wait for."""
    if min(ours.whole, theirs.whole) >= policy.min_requests:
        return True
    kept = min(ours.kept_ms.count, theirs.kept_ms.count) >= policy.min_requests
    return kept and any(one.latencies_ms.count <= RARE * one.slates for one in (ours, theirs))


def _timed(sample: Sample) -> str:
    cut_short = sample.latencies_ms.count - sample.whole
    return f"{sample.whole} by every stage, {cut_short} cut short, {sample.kept_ms.count} kept"


def _latency(
    name: str, q: float, ratio: float, policy: RolloutPolicy, ours: Sketch, theirs: Sketch, alpha: float
) -> Finding:
    def allowed(base: float) -> float:
        return max(base * ratio, base + policy.latency_slack_ms)

    base = theirs.quantile(q)
    said = (
        f"{name}: {base:.1f} -> {ours.quantile(q):.1f} ms (allowed x{ratio:g} and {policy.latency_slack_ms:g} ms more)"
    )
    if quantile_exceeds(ours, theirs, q, allowed, alpha):
        return Finding(name=name, outcome=Outcome.FAIL, said=f"{said}: surely slower than that")
    leans = ours.quantile(q) > allowed(base) and ours.quantile_bounds(q, LEANS)[0] > allowed(base)
    return Finding(name=name, outcome=Outcome.INCONCLUSIVE if leans else Outcome.PASS, said=said)


def _level(ours: Sample, theirs: Sample, alpha: float) -> Finding:
    """The best score of a typical list must lie where the champion's lie, give or take the width of one list."""
    median = ours.best_scores.quantile_bounds(0.5, alpha / 2)
    low = theirs.best_scores.quantile_bounds(0.05, alpha / 4)[0]
    high = theirs.best_scores.quantile_bounds(0.95, alpha / 4)[1]
    width = theirs.spreads.quantile(0.5)
    said = _distribution("best score of a list", ours.best_scores, theirs.best_scores)
    off = median[1] < low - width or median[0] > high + width
    return Finding(name="score_level", outcome=Outcome.FAIL if off else Outcome.PASS, said=said)


def _spread(ours: Sample, theirs: Sample, alpha: float) -> Finding:
    """Best minus worst score of a typical list: neither less than half of the champion's least, nor twice its most."""
    median = ours.spreads.quantile_bounds(0.5, alpha / 2)
    low = theirs.spreads.quantile_bounds(0.05, alpha / 4)[0]
    high = theirs.spreads.quantile_bounds(0.95, alpha / 4)[1]
    said = _distribution("spread of a list's scores", ours.spreads, theirs.spreads)
    off = median[1] < low / 2 or median[0] > high * 2
    return Finding(name="score_spread", outcome=Outcome.FAIL if off else Outcome.PASS, said=said)


def _distribution(what: str, ours: Sketch, theirs: Sketch) -> str:
    if not ours.count or not theirs.count:
        return f"{what}: nothing to compare"
    low, high = theirs.quantile(0.05), theirs.quantile(0.95)
    return f"{what}: median {ours.quantile(0.5):.4g}, champion's {theirs.quantile(0.5):.4g} ({low:.4g} to {high:.4g})"


def _overlap(policy: RolloutPolicy, window: Window, alpha: float) -> Finding:
    if window.paired < policy.min_requests:
        said = f"{window.paired} of {policy.min_requests} requests answered by both"
        return Finding(name="overlap_at_10", outcome=Outcome.INCONCLUSIVE, said=said)
    _, upper = mean_bounds(window.overlap, window.paired, alpha)
    mean, least = window.overlap / window.paired, policy.min_overlap_at_10
    outcome = Outcome.FAIL if upper < least else Outcome.PASS if mean >= least else Outcome.INCONCLUSIVE
    said = f"overlap_at_10 {mean:.2f} on {window.paired} requests (at least {least:.2f})"
    return Finding(name="overlap_at_10", outcome=outcome, said=said)


def _correlation(policy: RolloutPolicy, window: Window, alpha: float) -> Finding:
    """Order of the items that both show. Lists with nothing in common say nothing here; the overlap does."""
    if not window.correlated:
        return Finding(name="rank_correlation", outcome=Outcome.PASS, said="rank correlation: no common items")
    count, least = window.correlated, policy.min_rank_correlation
    mean = window.correlation / count
    _, upper = mean_bounds((window.correlation + count) / 2, count, alpha)  # from -1..1 to 0..1
    outcome = Outcome.FAIL if 2 * upper - 1 < least else Outcome.PASS if mean >= least else Outcome.INCONCLUSIVE
    said = f"rank correlation {mean:.2f} on {count} requests (at least {least:.2f})"
    return Finding(name="rank_correlation", outcome=outcome, said=said)


def _online(policy: RolloutPolicy, ours: Sample, theirs: Sample, alpha: float) -> list[Finding]:
    """From feedback as it arrives. It can stop a rollout, never hold one: it comes late, and some shops send none."""
    rules: Mapping[str, tuple[tuple[float, int], tuple[float, int]]] = {
        "online_ndcg": ((ours.ndcg, ours.told), (theirs.ndcg, theirs.told)),
        "online_conversion": ((ours.converted, ours.shown), (theirs.converted, theirs.shown)),
    }
    found = []
    for name, (mine, base) in rules.items():
        if not (ours.told and theirs.told):
            continue
        upper = mean_bounds(*mine, alpha / 2)[1]
        lower = mean_bounds(*base, alpha / 2)[0]
        said = f"{name}: {_share(base):.3f} -> {_share(mine):.3f} on {base[1]} and {mine[1]} lists"
        outcome = Outcome.FAIL if upper < lower - policy.max_online_drop else Outcome.PASS
        found.append(Finding(name=name, outcome=outcome, said=f"{said} (drop {policy.max_online_drop:g} allowed)"))
    return found

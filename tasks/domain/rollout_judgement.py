"""Judge a challenger on live evidence, against the champion over the same window. Missing evidence is never a pass."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, comb

from pydantic import Field

from tasks.domain.gate import Outcome
from tasks.domain.manifest import Record
from tasks.domain.rollout import RolloutPolicy

SURE = 0.05  # an error rate fails when it would be this unlikely under the allowed rate
WORST_FIRST = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


class Sample(Record):
    """What one release did in the window: counts as the router saw them, latencies as the service measured them."""

    requests: int = Field(default=0, ge=0)
    errors: int = Field(default=0, ge=0)
    latencies_ms: tuple[float, ...] = ()

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


class Window(Record):
    """Everything observed since the step began. `paired` counts requests that both releases answered."""

    challenger: Sample = Sample()
    champion: Sample = Sample()
    paired: int = 0
    overlap_at_10: float | None = None
    slates: int = 0
    unusable: int = 0  # slates of the challenger with a score that is missing or not finite
    constant: int = 0  # slates of the challenger whose scores are all equal
    restarts: int = 0
    online_ndcg: dict[str, float] = Field(default_factory=dict)
    online_slates: dict[str, int] = Field(default_factory=dict)


class Finding(Record):
    """One rule, with its numbers, as a sentence."""

    name: str
    outcome: Outcome
    said: str


class Judgement(Record):
    """All findings; the worst one wins, and none at all is inconclusive."""

    outcome: Outcome
    findings: tuple[Finding, ...]

    @property
    def reason(self) -> str:
        return "; ".join(f.said for f in self.findings if f.outcome is self.outcome) or "no evidence yet"


def judge(policy: RolloutPolicy, window: Window, *, shadow: bool) -> Judgement:
    """Hold the window against the policy. In shadow the answers are compared too, request by request."""
    findings = [
        _enough(policy, window),
        _errors(policy, window),
        _restarts(policy, window),
        _scores(window),
        _latency("p50", 0.50, policy.max_latency_ratio_p50, policy, window),
        _latency("p95", 0.95, policy.max_latency_ratio_p95, policy, window),
        *([_overlap(policy, window)] if shadow else []),
        *_online(window),
    ]
    outcome = next(worst for worst in WORST_FIRST if any(f.outcome is worst for f in findings))
    return Judgement(outcome=outcome, findings=tuple(findings))


def percentile(values: Sequence[float], q: float) -> float:
    """The smallest value that at least the share `q` of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(q * len(ordered)) - 1)]


def _enough(policy: RolloutPolicy, window: Window) -> Finding:
    seen = window.challenger.requests
    outcome = Outcome.PASS if seen >= policy.min_requests else Outcome.INCONCLUSIVE
    said = f"challenger answered {seen} of {policy.min_requests} requests needed"
    return Finding(name="requests", outcome=outcome, said=said)


def _errors(policy: RolloutPolicy, window: Window) -> Finding:
    # what troubles the champion too (a bad client, a full disk) is not the challenger's fault
    allowed = max(policy.max_error_rate, window.champion.error_rate)
    challenger = window.challenger
    if challenger.errors and _tail(challenger.errors, max(challenger.requests, challenger.errors), allowed) < SURE:
        outcome = Outcome.FAIL
    else:
        outcome = Outcome.PASS if challenger.error_rate <= allowed else Outcome.INCONCLUSIVE
    said = f"{challenger.errors} of {challenger.requests} requests failed (allowed {allowed:.2%})"
    return Finding(name="error_rate", outcome=outcome, said=said)


def _tail(errors: int, requests: int, rate: float) -> float:
    """Probability of at least this many errors at the given rate."""
    below = sum(comb(requests, k) * rate**k * (1 - rate) ** (requests - k) for k in range(min(errors, 1000)))
    return max(0.0, 1.0 - below)


def _restarts(policy: RolloutPolicy, window: Window) -> Finding:
    outcome = Outcome.FAIL if window.restarts > policy.max_restarts else Outcome.PASS
    return Finding(name="restarts", outcome=outcome, said=f"{window.restarts} crashes (allowed {policy.max_restarts})")


def _scores(window: Window) -> Finding:
    if window.unusable:
        said = f"{window.unusable} of {window.slates} slates hold a score that is not a finite number"
        return Finding(name="scores", outcome=Outcome.FAIL, said=said)
    if window.constant * 2 > window.slates:
        said = f"{window.constant} of {window.slates} slates give every item the same score"
        outcome = Outcome.FAIL if window.constant >= 3 else Outcome.INCONCLUSIVE
        return Finding(name="scores", outcome=outcome, said=said)
    return Finding(name="scores", outcome=Outcome.PASS, said=f"{window.slates} slates with finite, distinct scores")


def _latency(name: str, q: float, allowed: float, policy: RolloutPolicy, window: Window) -> Finding:
    ours, theirs = window.challenger.latencies_ms, window.champion.latencies_ms
    name = f"latency_{name}"
    if min(len(ours), len(theirs)) < policy.min_requests:
        said = f"{name}: {len(ours)} against {len(theirs)} timings, {policy.min_requests} of each needed"
        return Finding(name=name, outcome=Outcome.INCONCLUSIVE, said=said)
    mine, base = percentile(ours, q), percentile(theirs, q)
    said = f"{name}: {base:.1f} -> {mine:.1f} ms (allowed x{allowed:g} and {policy.latency_slack_ms:g} ms more)"
    if mine <= max(base * allowed, base + policy.latency_slack_ms):
        return Finding(name=name, outcome=Outcome.PASS, said=said)
    # few timings on a busy machine mislead: being slow must show in twice the sample before it ends a rollout
    sure = min(len(ours), len(theirs)) >= 2 * policy.min_requests
    return Finding(name=name, outcome=Outcome.FAIL if sure else Outcome.INCONCLUSIVE, said=said)


def _overlap(policy: RolloutPolicy, window: Window) -> Finding:
    if window.paired < policy.min_requests or window.overlap_at_10 is None:
        said = f"{window.paired} of {policy.min_requests} requests answered by both"
        return Finding(name="overlap_at_10", outcome=Outcome.INCONCLUSIVE, said=said)
    outcome = Outcome.PASS if window.overlap_at_10 >= policy.min_overlap_at_10 else Outcome.FAIL
    bound = f"at least {policy.min_overlap_at_10:.2f}"
    said = f"overlap_at_10 {window.overlap_at_10:.2f} on {window.paired} requests ({bound})"
    return Finding(name="overlap_at_10", outcome=outcome, said=said)


def _online(window: Window) -> list[Finding]:
    """Reported, never blocking: one canary window holds far too few purchases to decide on."""
    if not window.online_ndcg:
        return []
    found = sorted(window.online_ndcg.items())
    parts = ", ".join(f"{who} {value:.3f} on {window.online_slates[who]} slates" for who, value in found)
    return [Finding(name="online_ndcg", outcome=Outcome.PASS, said=f"online ndcg_at_10: {parts} (reported)")]

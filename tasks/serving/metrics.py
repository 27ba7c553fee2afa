"""Counters of one replica, in Prometheus' classic format. Labels are closed sets: nothing a caller sends is one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

LATENCY_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
disable_created_metrics()  # a time of creation beside every counter doubles the page and tells nobody anything
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Labelled:
    """A counter whose children are found in one step: prometheus_client's own way takes 2 us, ten times a request."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._children: dict[tuple[str, ...], Counter] = {}

    def labels(self, *values: str) -> Counter:
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._counter.labels(*values)
        return child


class Metrics:
    def __init__(self, release: str, replica: str) -> None:
        self.registry = CollectorRegistry()
        counter, labelled = self._counter, self._labelled
        self.requests = labelled("requests", "Replies by route and HTTP status", "route", "status")
        self.stages = labelled("stages", "Ranked requests by the stage that set the order", "stage")
        self.views = labelled("user_view", "Where the user's history came from", "source")
        self.unknown_users = counter("unknown_users", "Requests that named a user without history")
        self.unknown_items = counter("unknown_items", "Candidates that are not in the catalogue")
        self.feedback = labelled("feedback_events", "Feedback events put on disk", "joined")
        self.spool_refused = counter("feedback_refused", "Feedback refused because the spool was full or broken")
        self.uploads = labelled("feedback_uploads", "Runs of the uploader", "outcome")
        self.impressions = labelled(
            "impressions", "Items of served lists, by whether they reached the spool", "outcome"
        )
        self.recent = labelled("recent_purchases", "Purchases told to the online store at once", "outcome")
        self.cut_short = counter("cut_short", "Ranked requests whose deadline left a stage out")
        self.explored = counter("explored", "Lists that were shown with near ties swapped")
        self.together = labelled("ranked_together", "Ranked requests by how many were ranked in one go", "size")
        self.cache = labelled("cache_lookups", "Lookups in memory", "cache", "outcome")
        self.hit_ratio = Gauge(
            "freshrank_cache_hit_ratio", "Share of lookups that were answered", ("cache",), registry=self.registry
        )
        self._looked_up: dict[str, list[int]] = {}
        self.at_once = 0  # answers that needed no turn of the engine; counted in full when somebody looks
        self.latency = Histogram(
            "freshrank_rank_seconds",
            "Arrival to reply of ranked requests",
            registry=self.registry,
            buckets=LATENCY_BUCKETS,
        )
        self.pending = Gauge("freshrank_pending", "Requests waiting for the engine", registry=self.registry)
        self.ready = Gauge("freshrank_ready", "1 when /readyz answers 200", registry=self.registry)
        self.merchandising = Gauge(
            "freshrank_merchandising_revision",
            "Revision of the rules that lists are arranged by",
            registry=self.registry,
        )
        self.spool_bytes = Gauge("freshrank_spool_bytes", "Feedback not yet uploaded", registry=self.registry)
        info = Gauge("freshrank_info", "Which release this is", ("release", "replica"), registry=self.registry)
        info.labels(release, replica).set(1)

    def cached(self, cache: str, hit: bool) -> None:
        counts = self._looked_up.setdefault(cache, [0, 0])
        counts[hit] += 1
        self.cache.labels(cache, "hit" if hit else "miss").inc()

    def text(self) -> bytes:
        ready, self.at_once = self.at_once, 0
        if ready:
            for cache in ("history", "profile", "recommendation"):
                self._looked_up.setdefault(cache, [0, 0])[True] += ready
                self.cache.labels(cache, "hit").inc(ready)
            self.views.labels("memory").inc(ready)
        for cache, (missed, hit) in list(self._looked_up.items()):
            self.hit_ratio.labels(cache).set(hit / (missed + hit))
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"freshrank_{name}", meaning, labels, registry=self.registry)

    def _labelled(self, name: str, meaning: str, *labels: str) -> Labelled:
        return Labelled(self._counter(name, meaning, *labels))

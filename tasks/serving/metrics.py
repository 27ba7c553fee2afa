"""Counters of one replica, in Prometheus' classic format. Labels are closed sets: nothing a caller sends is one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

LATENCY_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
disable_created_metrics()  # a time of creation beside every counter doubles the page and tells nobody anything
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    def __init__(self, release: str, replica: str) -> None:
        self.registry = CollectorRegistry()
        counter = self._counter
        self.requests = counter("requests", "Replies by route and HTTP status", "route", "status")
        self.stages = counter("stages", "Ranked requests by the stage that set the order", "stage")
        self.views = counter("user_view", "Where the user's history came from", "source")
        self.unknown_users = counter("unknown_users", "Requests that named a user without history")
        self.unknown_items = counter("unknown_items", "Candidates that are not in the catalogue")
        self.feedback = counter("feedback_events", "Feedback events put on disk", "joined")
        self.spool_refused = counter("feedback_refused", "Feedback refused because the spool was full or broken")
        self.uploads = counter("feedback_uploads", "Runs of the uploader", "outcome")
        self.impressions = counter("impressions", "Items of served lists, by whether they reached the spool", "outcome")
        self.recent = counter("recent_purchases", "Purchases told to the online store at once", "outcome")
        self.cut_short = counter("cut_short", "Ranked requests whose deadline left a stage out")
        self.together = counter("ranked_together", "Ranked requests by how many were ranked in one go", "size")
        self.cache = counter("cache_lookups", "Lookups in memory", "cache", "outcome")
        self.hit_ratio = Gauge(
            "freshrank_cache_hit_ratio", "Share of lookups that were answered", ("cache",), registry=self.registry
        )
        self._looked_up: dict[str, list[int]] = {}
        self.latency = Histogram(
            "freshrank_rank_seconds",
            "Arrival to reply of ranked requests",
            registry=self.registry,
            buckets=LATENCY_BUCKETS,
        )
        self.pending = Gauge("freshrank_pending", "Requests waiting for the engine", registry=self.registry)
        self.ready = Gauge("freshrank_ready", "1 when /readyz answers 200", registry=self.registry)
        self.spool_bytes = Gauge("freshrank_spool_bytes", "Feedback not yet uploaded", registry=self.registry)
        info = Gauge("freshrank_info", "Which release this is", ("release", "replica"), registry=self.registry)
        info.labels(release, replica).set(1)

    def cached(self, cache: str, hit: bool) -> None:
        counts = self._looked_up.setdefault(cache, [0, 0])
        counts[hit] += 1
        self.cache.labels(cache, "hit" if hit else "miss").inc()

    def text(self) -> bytes:
        for cache, (missed, hit) in list(self._looked_up.items()):
            self.hit_ratio.labels(cache).set(hit / (missed + hit))
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"freshrank_{name}", meaning, labels, registry=self.registry)

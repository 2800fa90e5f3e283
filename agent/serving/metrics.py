"""What can be watched of a server, in Prometheus' format, in a registry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agent.asks import Ask
from agent.wire import needed

SECONDS = 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1, 2, 5, 10, 30, 60
SIZES = 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64


class Metrics:
    def __init__(self):
        prometheus = needed("prometheus_client")
        self.registry = prometheus.CollectorRegistry()
        self._prometheus = prometheus
        more = {"registry": self.registry}
        make = lambda kind, name, what, labels=(), **options: getattr(prometheus, kind)(
            f"steersman_{name}", what, labels, **more, **options
        )
        self.requests = make(
            "Counter", "requests", "Requests by outcome: ok, refused, failed, late.", ["outcome"]
        )
        self.refused = make("Counter", "refused", "Connections that were not let in, by reason.", ["reason"])
        self.received = make("Counter", "received_bytes", "Bytes of requests.")
        self.sent = make("Counter", "sent_bytes", "Bytes of replies.")
        about = {"buckets": SECONDS}
        self.seconds = make("Histogram", "request_seconds", "From a request to its reply.", **about)
        self.waited = make("Histogram", "wait_seconds", "Until a pass began.", ["worker"], **about)
        self.passes = make("Histogram", "pass_seconds", "What a pass took.", ["worker"], **about)
        self.together = make("Histogram", "pass_questions", "Questions in a pass.", ["worker"], buckets=SIZES)
        self.age = make(
            "Histogram", "plan_age_seconds", "Age of the plan that a chunk was made for.", **about
        )
        self.ready = make("Gauge", "ready", "Whether the network is loaded and warm.")
        self.began = make("Gauge", "start_time_seconds", "When the server began, in seconds since 1970.")
        self.began.set(time.time())

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A number that is looked up whenever somebody asks."""
        found = self._prometheus.Gauge(f"steersman_{name}", what, registry=self.registry)
        found.set_function(value)

    def told(self, worker: str) -> Callable[[Sequence[Ask]], None]:
        """For `Worker`: counts what was answered in a pass."""
        waited, passes, together = (m.labels(worker) for m in (self.waited, self.passes, self.together))

        def count(asks: Sequence[Ask]) -> None:
            together.observe(len(asks))
            passes.observe(max(ask.seconds for ask in asks))
            for ask in asks:
                waited.observe(ask.waited)

        return count

    def page(self) -> bytes:
        return self._prometheus.generate_latest(self.registry)

"""What the server counts, in the format of Prometheus. No label holds what a client made up."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from phantrol.inference.scheduler import Scheduler

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server; their names begin with phantrol_."""

    def __init__(self, scheduler: Scheduler):
        self._registry = CollectorRegistry()
        registry = {"namespace": "phantrol", "registry": self._registry}
        self.requests = Counter("requests", "Requests, by route and status", ["route", "status"], **registry)
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts, those of pictures too", **registry)
        self.image_tokens = Counter("image_tokens", "Tokens of pictures", **registry)
        self.answer_tokens = Counter("answer_tokens", "Tokens that were said", **registry)
        self.cancelled = Counter("cancelled_requests", "Requests whose client left", **registry)
        self.first_token_s = Histogram(
            "time_to_first_token_seconds", "From a request to its first token", buckets=SECONDS, **registry
        )
        self.request_s = Histogram(
            "request_seconds", "From a request to the end of its answer", buckets=SECONDS, **registry
        )
        running = Gauge("running_answers", "Answers under way", **registry)
        running.set_function(lambda: scheduler.num_running)
        waiting = Gauge("waiting_requests", "Requests that wait for a row", **registry)
        waiting.set_function(lambda: scheduler.num_waiting)

    def render(self) -> bytes:
        """Return everything as text."""
        return generate_latest(self._registry)

"""What the endpoint measures of itself, in the Prometheus text format. Times are seconds."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moe_runtime.frontend.schedule import Request, Scheduler
from moe_runtime.step import Step

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TTFT_BUCKETS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
TPOT_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


@dataclass(slots=True)
class _Times:
    """When a request came, and when its first and its last token."""

    arrived: float
    first: float | None = None
    last: float = 0.0


class Measured(Protocol):
    """What ranks count while they compute."""

    def expert_tokens(self) -> NDArray[np.int64]:
        """Tokens that each physical expert has computed since the ranks' start, `[layers, experts]`."""

    def stage_times_s(self) -> NDArray[np.float64]:
        """Time of each stage in steps, and of that in communication, `[pp, 2]`; the mean of its ranks."""

    def memory_bytes(self) -> NDArray[np.int64]:
        """Memory that each rank takes, `[world]`; 0 where not yet known."""

    def paces(self) -> Mapping[int, float]:
        """How many times as long as the others each slot takes for the same work, where that is known."""


class _RankFigures(Collector):
    """The ranks' counts, fetched with each scrape; they begin anew with the ranks, as Prometheus expects."""

    def __init__(self, ranks: Callable[[], Measured]) -> None:
        self._ranks = ranks

    def collect(self) -> Iterator[Metric]:
        ranks = self._ranks()
        yield from _of_experts(ranks.expert_tokens())
        times = CounterMetricFamily(
            "moe_stage_seconds", "Time of a stage in steps, and of that in communication.", labels=["stage", "part"]
        )
        for stage, (whole, communication) in enumerate(ranks.stage_times_s().tolist()):
            times.add_metric([str(stage), "step"], whole)
            times.add_metric([str(stage), "communication"], communication)
        yield times
        taken = {rank: memory for rank, memory in enumerate(ranks.memory_bytes().tolist()) if memory}
        yield _gauges(
            "moe_rank_memory_bytes", "Memory in use on a rank's GPU, or taken by a rank on a CPU.", "rank", taken
        )
        told = "Times as long as other slots that a slot takes for the same work."
        yield _gauges("moe_slot_pace", told, "slot", ranks.paces())


def _of_experts(tokens: NDArray[np.int64]) -> Iterator[Metric]:
    """`tokens` [layers, experts]."""
    by_expert = CounterMetricFamily(
        "moe_expert_tokens", "Tokens computed, by physical expert, over all layers.", labels=["expert"]
    )
    for expert, count in enumerate(tokens.sum(0).tolist()):
        by_expert.add_metric([str(expert)], count)
    yield by_expert
    busy = np.flatnonzero(tokens.any(1)).tolist()
    uneven = {layer: float(tokens[layer].max() / tokens[layer].mean()) for layer in busy}
    told = "Tokens of a layer's busiest expert over the mean."
    yield _gauges("moe_expert_load_max_over_mean", told, "layer", uneven)


def _gauges(name: str, told: str, label: str, values: Mapping[int, float]) -> Metric:
    gauge = GaugeMetricFamily(name, told, labels=[label])
    for key, value in values.items():
        gauge.add_metric([str(key)], value)
    return gauge


class Metrics:
    """Counters of one endpoint."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library gives it no types
        self.registry = CollectorRegistry()
        self._times: dict[int, _Times] = {}
        self.requests = self._counter("moe_requests", "Requests that ended, by how.", "outcome")
        self.prompt_tokens = self._counter("moe_prompt_tokens", "Prompt tokens of requests that arrived.")
        self.generated_tokens = self._counter("moe_generated_tokens", "Tokens generated.")
        self.restarts = self._counter("moe_rank_restarts", "Starts of the ranks after a loss.")
        self.step_tokens = self._counter("moe_step_tokens", "Tokens that steps computed, prefill and decode.")
        self.ttft = Histogram(
            "moe_ttft_seconds", "Time to first token.", registry=self.registry, buckets=TTFT_BUCKETS_S
        )
        self.tpot = Histogram(
            "moe_tpot_seconds", "Time per output token after the first.", registry=self.registry, buckets=TPOT_BUCKETS_S
        )
        self.step_time = Histogram(
            "moe_step_seconds", "Time of one step.", registry=self.registry, buckets=TPOT_BUCKETS_S
        )

    def observe(self, scheduler: Scheduler, ranks: Callable[[], Measured]) -> None:
        """Show the schedule's state and what the ranks count, read when asked for."""
        self.registry.register(_RankFigures(ranks))
        self._gauge("moe_waiting_requests", "Requests that wait for room.").set_function(lambda: len(scheduler.waiting))
        self._gauge("moe_running_requests", "Requests that hold pages.").set_function(lambda: scheduler.running)
        self._gauge("moe_kv_pages_used", "KV pages in use, over all shards.").set_function(lambda: scheduler.pages_used)
        self._gauge("moe_kv_pages", "KV pages, over all shards.").set(
            scheduler.capacity.pages * scheduler.capacity.shards
        )

    def arrived(self, request: Request) -> None:
        """A request came."""
        self._times[request.number] = _Times(time.monotonic())
        self.prompt_tokens.inc(len(request.prompt))

    def generated(self, request: Request) -> None:
        """A request has a new token."""
        times, now = self._times[request.number], time.monotonic()
        self.generated_tokens.inc()
        if times.first is None:
            times.first = now
            self.ttft.observe(now - times.arrived)
        times.last = now

    def stepped(self, step: Step, seconds: float) -> None:
        """A step was computed."""
        chunks = (chunk for micro_batch in step.micro_batches for shard in micro_batch for chunk in shard)
        self.step_tokens.inc(sum(len(chunk.tokens) for chunk in chunks))
        self.step_time.observe(seconds)

    def ended(self, request: Request, outcome: str) -> None:
        """A request ended."""
        times = self._times.pop(request.number)
        self.requests.labels(outcome).inc()
        if times.first is not None and len(request.tokens) > 1:
            self.tpot.observe((times.last - times.first) / (len(request.tokens) - 1))

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, registry=self.registry)

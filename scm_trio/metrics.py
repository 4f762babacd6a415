"""What the server counts, for Prometheus and for the statistics route.

Every label value comes from a fixed or small set: what a peer sends freely is counted under ``unknown`` or ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from scm_trio.errors import CloseCode, RequestFailed
from scm_trio.model import FinishReason, Usage
from scm_trio.protocol.messages import CLIENT_TYPES, SERVER_TYPES

_MESSAGE_TYPES = frozenset(CLIENT_TYPES) | frozenset(SERVER_TYPES)
_ERROR_CODES = frozenset(failure.code for failure in RequestFailed.__subclasses__())
_CLOSE_CODES = frozenset(str(int(code)) for code in CloseCode) | {"1005", "1006"}
_OUTCOMES = frozenset(str(reason) for reason in FinishReason)
_ASIDE_KINDS = frozenset({"title", "suggestions"})
_TOKEN_KINDS = ("prompt", "completion", "reasoning", "cached")
_TOKEN_SOURCES = frozenset({"provider", "estimated"})
_MAX_NAMES = 64

_RELAY_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_FIRST_TOKEN_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
_RUN_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_WRITE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

_M = TypeVar("_M", bound=MetricWrapperBase)


class _Family(Generic[_M]):
    """The children of a labelled metric, looked up once: ``labels()`` costs more than the counting itself."""

    def __init__(self, metric: _M, *allowed: frozenset[str] | None, other: str = "other") -> None:
        """``allowed`` holds the values of each label, in order; where it is None, the first 64 that come are taken."""
        self._metric = metric
        self._allowed = allowed
        self._seen: tuple[set[str], ...] = tuple(set() for _ in allowed)
        self._other = other
        self._children: dict[tuple[str, ...], _M] = {}

    def __call__(self, *values: str) -> _M:
        child = self._children.get(values)
        if child is None:
            bounded = tuple(self._bound(position, value) for position, value in enumerate(values))
            child = self._metric.labels(*bounded)
            # A value that was folded into "other" is not remembered: the peer could send a new one every time.
            if bounded == values:
                self._children[values] = child
        return child

    def _bound(self, position: int, value: str) -> str:
        allowed, seen = self._allowed[position], self._seen[position]
        if allowed is not None:
            return value if value in allowed else self._other
        if value not in seen and len(seen) >= _MAX_NAMES:
            return self._other
        seen.add(value)
        return value


class _WithoutBirthdays(Collector):
    """The registry without its ``_created`` samples, which double the page and which nobody asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class _Relay(Collector):
    """What is counted for every frame, in plain numbers: the library's own counters take a lock for each."""

    def __init__(self) -> None:
        self.messages: Tally[tuple[str, str]] = Tally()
        self.frames = self.deltas = 0
        self._seconds = 0.0
        self._counts = [0] * (len(_RELAY_BUCKETS_S) + 1)

    def observe(self, deltas: int, seconds: float) -> None:
        self.frames += 1
        self.deltas += deltas
        self._seconds += seconds
        self._counts[bisect_left(_RELAY_BUCKETS_S, seconds)] += 1

    def collect(self) -> Iterator[Metric]:
        by_type = CounterMetricFamily("scm_messages", "WebSocket messages", labels=("direction", "type"))
        for labels, number in self.messages.items():
            by_type.add_metric(labels, number)
        yield by_type
        yield CounterMetricFamily("scm_relay_frames", "CHAT_STREAM_DATA frames handed to sockets", self.frames)
        yield CounterMetricFamily("scm_relay_deltas", "Provider deltas inside those frames", self.deltas)
        bounds = (*map(floatToGoString, _RELAY_BUCKETS_S), "+Inf")
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily("scm_relay_seconds", "Provider read to socket", buckets, self._seconds)


class Metrics:
    """All counters of one server, in a registry of its own."""

    def __init__(self, *, now: Callable[[], float]) -> None:
        """``now`` is a monotonic clock in seconds; only the uptime needs it."""
        self._now = now
        self._started_at = now()
        self._users: Tally[str] = Tally()
        self._active = self._total = self._runs = self._total_runs = self._in = self._out = 0
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._relay = _Relay()
        self._registry.register(self._relay)
        self._make_gauges()
        self._make_counters()
        self._make_histograms()

    def _make_gauges(self) -> None:
        for name, text, read in (
            ("connections_active", "WebSocket connections now open", lambda: self._active),
            ("users_active", "Users with at least one connection", lambda: len(self._users)),
            ("runs_active", "Answers being generated", lambda: self._runs),
            ("uptime_seconds", "Seconds since the start", lambda: self._now() - self._started_at),
        ):
            # Read when somebody asks, so that the hot path pays nothing.
            Gauge(f"scm_{name}", text, registry=self._registry).set_function(read)

    def _make_counters(self) -> None:
        self._connections = self._counter("connections_total", "WebSocket connections ever opened")
        self._refused = _Family(self._counter("connections_refused_total", "Refused handshakes", "reason"), None)
        self._errors = _Family(self._counter("errors_total", "ERROR messages sent", "code"), _ERROR_CODES)
        self._closes = _Family(self._counter("closes_total", "Connections ended, by close code", "code"), _CLOSE_CODES)
        runs = self._counter("runs_total", "Answers ended", "provider", "outcome")
        self._run_count = _Family(runs, None, _OUTCOMES)
        tokens = self._counter(
            "tokens_total", "Tokens; reasoning and cached ones are part of the others", "provider", "kind", "source"
        )
        self._tokens = _Family(tokens, None, frozenset(_TOKEN_KINDS), _TOKEN_SOURCES)
        asides = self._counter("asides_total", "Titles and suggestions asked for", "kind", "outcome")
        self._asides = _Family(asides, _ASIDE_KINDS, _OUTCOMES | _ERROR_CODES)

    def _make_histograms(self) -> None:
        first = self._histogram("first_token_seconds", "Question to first token", _FIRST_TOKEN_BUCKETS_S, "provider")
        self._first_tokens = _Family(first, None)
        length = self._histogram("run_seconds", "Length of an answer", _RUN_BUCKETS_S, "provider")
        self._run_seconds = _Family(length, None)
        self._store_seconds = self._histogram("store_write_seconds", "Length of a commit", _WRITE_BUCKETS_S)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"scm_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets_s: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"scm_{name}", text, labels, buckets=buckets_s, registry=self._registry)

    # ---- connections

    def connection_opened(self, user_id: str) -> None:
        self._active += 1
        self._total += 1
        self._users[user_id] += 1
        self._connections.inc()

    def connection_closed(self, user_id: str, code: int | None) -> None:
        """One connection less; ``code`` is the close code, None where the TCP connection just ended."""
        self._active -= 1
        self._users[user_id] -= 1
        if self._users[user_id] <= 0:
            del self._users[user_id]
        self._closes(str(1006 if code is None else int(code))).inc()

    def connection_refused(self, reason: str) -> None:
        """A handshake was refused; ``reason`` is an error code, not a sentence."""
        self._refused(reason).inc()

    # ---- messages

    def message_in(self, type: str) -> None:
        self._in += 1
        self._relay.messages["in", type if type in _MESSAGE_TYPES else "unknown"] += 1

    def message_out(self, type: str) -> None:
        self._out += 1
        self._relay.messages["out", type if type in _MESSAGE_TYPES else "unknown"] += 1

    def error(self, code: str) -> None:
        self._errors(code).inc()

    def relayed(self, deltas: int, seconds: float) -> None:
        """A frame with ``deltas`` deltas went to a socket ``seconds`` after the read that brought the oldest of them."""
        self._relay.observe(deltas, seconds)

    # ---- answers

    def run_started(self) -> None:
        self._runs += 1
        self._total_runs += 1

    def first_token(self, provider: str, seconds: float) -> None:
        self._first_tokens(provider).observe(seconds)

    def run_ended(self, provider: str, outcome: str, seconds: float, usage: Usage | None) -> None:
        """An answer is over; ``outcome`` is its finish reason."""
        self._runs -= 1
        self._run_count(provider, outcome).inc()
        self._run_seconds(provider).observe(seconds)
        if usage is not None:
            self._spent(provider, usage)

    def aside_ended(self, kind: str, outcome: str, provider: str, usage: Usage) -> None:
        """A title or suggestions have been asked for; ``outcome`` is a finish reason or an error code."""
        self._asides(kind, outcome).inc()
        self._spent(provider, usage)

    def _spent(self, provider: str, usage: Usage) -> None:
        for kind in _TOKEN_KINDS:
            self._tokens(provider, kind, usage.source).inc(getattr(usage, f"{kind}_tokens"))

    def store_write(self, seconds: float) -> None:
        self._store_seconds.observe(seconds)

    # ---- reading

    def connection_stats(self) -> dict[str, object]:
        """Return the plain numbers of the statistics route, in its camelCase."""
        return {
            "activeConnections": self._active,
            "totalConnections": self._total,
            "activeUsers": len(self._users),
            "activeStreams": self._runs,
            "totalStreams": self._total_runs,
            "messagesIn": self._in,
            "messagesOut": self._out,
            "uptimeSeconds": round(self._now() - self._started_at, 3),
        }

    def render(self) -> tuple[bytes, str]:
        """Return the body and the content type of ``/metrics``."""
        return generate_latest(_WithoutBirthdays(self._registry)), CONTENT_TYPE_PLAIN_0_0_4

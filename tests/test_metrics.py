"""Counters: what is counted, and that no peer can make new series."""

import re

import pytest

from scm_trio.metrics import Metrics
from scm_trio.model import Usage


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(now=clock)


def value(metrics: Metrics, series: str) -> float:
    """The value of one line of the page, e.g. ``scm_errors_total{code="INTERNAL"}``."""
    body, _ = metrics.render()
    lines = [line for line in body.decode().splitlines() if line.startswith(series + " ")]
    assert len(lines) == 1, series
    return float(lines[0].rsplit(" ", 1)[1])


def series_of(metrics: Metrics, name: str) -> set[str]:
    body, _ = metrics.render()
    return {line.rsplit(" ", 1)[0] for line in body.decode().splitlines() if re.match(rf"{name}(\{{| )", line)}


def test_connections_and_users_go_up_and_down(metrics: Metrics) -> None:
    metrics.connection_opened("ann")
    metrics.connection_opened("ann")
    metrics.connection_opened("bob")
    metrics.connection_closed("ann", 1000)
    metrics.connection_closed("bob", None)

    assert value(metrics, "scm_connections_active") == 1
    assert value(metrics, "scm_users_active") == 1
    assert value(metrics, "scm_connections_total") == 3
    assert value(metrics, 'scm_closes_total{code="1000"}') == 1
    assert value(metrics, 'scm_closes_total{code="1006"}') == 1


def test_refusals_are_counted_by_reason(metrics: Metrics) -> None:
    metrics.connection_refused("UNAUTHORIZED")

    assert value(metrics, 'scm_connections_refused_total{reason="UNAUTHORIZED"}') == 1


def test_messages_are_counted_by_direction_and_type(metrics: Metrics) -> None:
    metrics.message_in("CHAT_REQUEST")
    metrics.message_out("CHAT_STREAM_DATA")
    metrics.message_out("CHAT_STREAM_DATA")

    assert value(metrics, 'scm_messages_total{direction="in",type="CHAT_REQUEST"}') == 1
    assert value(metrics, 'scm_messages_total{direction="out",type="CHAT_STREAM_DATA"}') == 2


def test_a_peer_cannot_make_new_series_with_unknown_types(metrics: Metrics) -> None:
    for number in range(100):
        metrics.message_in(f"NONSENSE_{number}")

    assert series_of(metrics, "scm_messages_total") == {'scm_messages_total{direction="in",type="unknown"}'}
    assert value(metrics, 'scm_messages_total{direction="in",type="unknown"}') == 100


def test_codes_outside_the_protocol_are_counted_as_other(metrics: Metrics) -> None:
    metrics.error("RATE_LIMITED")
    metrics.error("SOMETHING_NEW")
    metrics.connection_opened("ann")
    metrics.connection_closed("ann", 4999)

    assert value(metrics, 'scm_errors_total{code="RATE_LIMITED"}') == 1
    assert value(metrics, 'scm_errors_total{code="other"}') == 1
    assert value(metrics, 'scm_closes_total{code="other"}') == 1


def test_labels_without_a_fixed_set_stop_growing(metrics: Metrics) -> None:
    for number in range(200):
        metrics.connection_refused(f"REASON_{number}")
    metrics.connection_refused("REASON_0")

    assert len(series_of(metrics, "scm_connections_refused_total")) == 65
    assert value(metrics, 'scm_connections_refused_total{reason="other"}') == 200 - 64
    assert value(metrics, 'scm_connections_refused_total{reason="REASON_0"}') == 2


def test_an_answer_is_counted_with_its_tokens(metrics: Metrics) -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=20, reasoning_tokens=5, cached_tokens=3, source="estimated")
    metrics.run_started()
    metrics.first_token("openai", 0.4)
    assert value(metrics, "scm_runs_active") == 1
    metrics.run_ended("openai", "completed", 2.0, usage)

    assert value(metrics, "scm_runs_active") == 0
    assert value(metrics, 'scm_runs_total{outcome="completed",provider="openai"}') == 1
    assert value(metrics, 'scm_tokens_total{kind="prompt",provider="openai",source="estimated"}') == 10
    assert value(metrics, 'scm_tokens_total{kind="cached",provider="openai",source="estimated"}') == 3
    assert value(metrics, 'scm_first_token_seconds_bucket{le="0.5",provider="openai"}') == 1
    assert value(metrics, 'scm_first_token_seconds_bucket{le="0.3",provider="openai"}') == 0
    assert value(metrics, 'scm_run_seconds_sum{provider="openai"}') == 2.0


def test_an_answer_without_usage_counts_no_tokens(metrics: Metrics) -> None:
    metrics.run_started()
    metrics.run_ended("openai", "error", 0.1, None)

    assert value(metrics, 'scm_runs_total{outcome="error",provider="openai"}') == 1
    assert series_of(metrics, "scm_tokens_total") == set()


def test_relayed_frames_are_counted_with_their_deltas_and_delay(metrics: Metrics) -> None:
    metrics.relayed(3, 0.0003)
    metrics.relayed(1, 0.02)
    metrics.store_write(0.002)

    assert value(metrics, "scm_relay_frames_total") == 2
    assert value(metrics, "scm_relay_deltas_total") == 4
    assert value(metrics, 'scm_relay_seconds_bucket{le="0.00025"}') == 0
    assert value(metrics, 'scm_relay_seconds_bucket{le="0.0005"}') == 1
    assert value(metrics, 'scm_relay_seconds_bucket{le="1.0"}') == 2
    assert value(metrics, "scm_store_write_seconds_count") == 1


def test_the_statistics_are_those_of_the_seed(metrics: Metrics, clock: Clock) -> None:
    metrics.connection_opened("ann")
    metrics.run_started()
    metrics.message_in("HEARTBEAT")
    metrics.message_out("HEARTBEAT")
    clock.now_s += 12.5

    assert metrics.connection_stats() == {
        "activeConnections": 1,
        "totalConnections": 1,
        "activeUsers": 1,
        "activeStreams": 1,
        "totalStreams": 1,
        "messagesIn": 1,
        "messagesOut": 1,
        "uptimeSeconds": 12.5,
    }
    assert value(metrics, "scm_uptime_seconds") == 12.5


def test_two_servers_in_one_process_count_apart(clock: Clock) -> None:
    first, second = Metrics(now=clock), Metrics(now=clock)
    first.connection_opened("ann")

    assert value(second, "scm_connections_active") == 0


def test_the_page_is_prometheus_text_without_birthdays(metrics: Metrics) -> None:
    metrics.connection_opened("ann")
    body, content_type = metrics.render()

    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"_created" not in body
    assert b"process_open_fds" in body


def test_titles_and_suggestions_are_counted_beside_answers():
    metrics = Metrics(now=lambda: 0.0)
    metrics.aside_ended("title", "completed", "openai", Usage(prompt_tokens=10, completion_tokens=3))
    metrics.aside_ended("title", "TIMEOUT", "openai", Usage(prompt_tokens=10, source="estimated"))
    metrics.aside_ended("nonsense", "nonsense", "openai", Usage())
    text = metrics.render()[0].decode()
    assert 'scm_asides_total{kind="title",outcome="completed"} 1.0' in text
    assert 'scm_asides_total{kind="title",outcome="TIMEOUT"} 1.0' in text
    assert 'scm_asides_total{kind="other",outcome="other"} 1.0' in text
    assert 'scm_tokens_total{kind="completion",provider="openai",source="provider"} 3.0' in text
    assert metrics.connection_stats()["totalStreams"] == 0

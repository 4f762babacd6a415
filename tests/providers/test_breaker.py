"""The circuit breaker: what it allows when, and that no order of events can lock it for ever."""

from hypothesis import given
from hypothesis import strategies as st

from scm_trio.providers.breaker import (
    FIRST_REST_S,
    MAX_BREAKERS,
    MAX_REST_S,
    PROBE_WAIT_S,
    THRESHOLD,
    WINDOW_S,
    Breaker,
    Breakers,
)


def failed(times: int, *, every_s: float = 1.0) -> Breaker:
    breaker = Breaker()
    for number in range(times):
        breaker.fail(number * every_s, probe=breaker.begin())
    return breaker


def opened() -> tuple[Breaker, float]:
    """An open breaker, and when it opened."""
    return failed(THRESHOLD), THRESHOLD - 1.0


def test_it_opens_after_five_failures_in_a_row():
    assert failed(THRESHOLD - 1).wait_s(4.0) == 0
    assert failed(THRESHOLD).wait_s(THRESHOLD - 1) == FIRST_REST_S


def test_failures_far_apart_do_not_open_it():
    assert failed(20, every_s=WINDOW_S / 2).wait_s(0.0) == 0


def test_a_success_between_them_begins_the_count_anew():
    breaker = failed(THRESHOLD - 1)
    breaker.succeed()
    breaker.fail(5.0, probe=False)
    assert breaker.wait_s(5.0) == 0


def test_after_its_rest_it_lets_one_probe_through():
    breaker, at = opened()
    assert breaker.wait_s(at + FIRST_REST_S - 1) == 1
    assert breaker.wait_s(at + FIRST_REST_S) == 0
    assert breaker.begin() is True
    assert breaker.wait_s(at + FIRST_REST_S) == PROBE_WAIT_S


def test_a_probe_that_succeeds_closes_it():
    breaker, at = opened()
    assert breaker.begin()
    breaker.succeed()
    assert breaker.wait_s(at) == 0
    assert breaker.is_idle
    assert breaker.begin() is False


def test_the_rest_doubles_with_each_failed_probe_up_to_five_minutes():
    breaker, now = opened()
    rests = []
    for _ in range(7):
        rests.append(breaker.wait_s(now))
        now += breaker.wait_s(now)
        breaker.fail(now, probe=breaker.begin())
    assert rests == [15, 30, 60, 120, 240, 300, 300]


def test_a_probe_that_is_abandoned_leaves_the_place_to_the_next():
    breaker, at = opened()
    probe = breaker.begin()
    breaker.abandon(probe=probe)
    assert breaker.wait_s(at + FIRST_REST_S) == 0
    assert breaker.begin() is True


def test_who_began_before_it_opened_changes_nothing_by_failing():
    breaker, at = opened()
    breaker.fail(at + 14, probe=False)
    breaker.abandon(probe=False)
    assert breaker.wait_s(at + 14) == 1
    assert breaker.begin()
    breaker.fail(at + 15, probe=False)
    assert breaker.wait_s(at + 15) == PROBE_WAIT_S


@given(
    st.lists(
        st.tuples(st.floats(0, 400), st.sampled_from(["begin", "succeed", "fail", "abandon"]), st.integers(0, 5)),
        max_size=60,
    )
)
def test_whatever_happens_there_is_one_probe_at_most_and_waiting_always_helps(events):
    breaker, now, under_way = Breaker(), 0.0, []
    for passed_s, what, which in events:
        now += passed_s
        if what == "begin":
            if not breaker.wait_s(now):
                under_way.append(breaker.begin())
        elif under_way:
            probe = under_way.pop(which % len(under_way))
            if what == "succeed":
                breaker.succeed()
            elif what == "fail":
                breaker.fail(now, probe=probe)
            else:
                breaker.abandon(probe=probe)
        assert 0 <= breaker.wait_s(now) <= MAX_REST_S
    for probe in under_way:
        breaker.abandon(probe=probe)
    assert breaker.wait_s(now + MAX_REST_S) == 0


def test_each_model_has_its_own():
    breakers = Breakers()
    assert breakers.of("a") is breakers.of("a")
    assert breakers.of("a") is not breakers.of("b")


def test_names_that_nobody_knows_do_not_fill_the_memory():
    breakers = Breakers()
    kept = breakers.of("broken")
    kept.fail(0.0, probe=False)
    for number in range(2 * MAX_BREAKERS):
        breakers.of(f"model-{number}")
    assert breakers.of("broken") is kept
    for number in range(2 * MAX_BREAKERS):
        breakers.of(f"model-{number}").fail(0.0, probe=False)
    assert len(breakers._by_model) == MAX_BREAKERS

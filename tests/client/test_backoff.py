import pytest

from scm_trio.client.backoff import Backoff, Outage


def pauses(backoff, asked=(None,) * 6):
    outage = Outage(backoff, began_at=0.0)
    return [outage.next_pause_s(0.0, each) for each in asked]


def test_pauses_double_up_to_a_limit_and_are_a_random_part_of_that():
    assert pauses(Backoff(1.0, 4.0, chance=lambda: 0.5)) == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert pauses(Backoff(1.0, 4.0, chance=lambda: 0.0)) == [0.0] * 6
    assert 0 <= Backoff().pause_s(0, None) < 0.5
    assert Backoff(chance=lambda: 1.0).pause_s(100_000, None) == 30.0


def test_what_the_server_asks_for_comes_before_that():
    assert pauses(Backoff(1.0, 4.0, chance=lambda: 0.5), [7.0, None, 7.0]) == [7.5, 1.0, 9.0]


def test_the_last_try_is_made_when_the_time_is_over():
    outage = Outage(Backoff(8.0, 8.0, give_up_after_s=10.0, chance=lambda: 0.5), began_at=100.0)
    assert outage.next_pause_s(100.0, None) == 4.0
    assert outage.next_pause_s(104.5, None) == 4.0
    assert outage.next_pause_s(108.5, None) == 1.5
    assert outage.next_pause_s(110.0, None) is None


@pytest.mark.parametrize(("asked_s", "wanted"), [(10.0, 10.0), (10.1, None)])
def test_a_pause_that_lasts_too_long_is_not_begun(asked_s, wanted):
    backoff = Backoff(1.0, 4.0, give_up_after_s=10.0, chance=lambda: 0.5)
    assert Outage(backoff, began_at=0.0).next_pause_s(0.0, asked_s) == wanted

from hypothesis import given
from hypothesis import strategies as st

from scm_trio.chat.limits import FLOOD_FACTOR, TokenBucket, UserRates, Verdict

moments = st.lists(st.floats(0, 10, allow_nan=False), max_size=60)


def test_a_bucket_gives_its_capacity_at_once_and_then_at_its_rate():
    bucket = TokenBucket(3, 0.5)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(10.0) == 2.0
    assert not bucket.take(11.9)
    assert bucket.take(12.0)


def test_a_bucket_never_holds_more_than_its_capacity():
    bucket = TokenBucket(2, 1)
    assert bucket.take(0.0)
    assert not bucket.is_full(0.5)
    assert bucket.is_full(1000.0)
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


def test_a_clock_that_steps_back_gives_nothing_away():
    bucket = TokenBucket(1, 1)
    assert bucket.take(5.0)
    assert not bucket.take(4.0)
    assert bucket.take(6.0)


def test_waiting_as_long_as_told_is_enough():
    bucket = TokenBucket(1, 0.25)
    bucket.take(0.0)
    assert bucket.take(bucket.wait_s(0.0))
    assert bucket.wait_s(100.0) == 0.0


@given(capacity=st.integers(1, 20), per_second=st.floats(0.1, 20), gaps=moments)
def test_a_bucket_never_gives_more_than_capacity_and_rate_allow(capacity, per_second, gaps):
    bucket, now, taken = TokenBucket(capacity, per_second), 0.0, 0
    for gap in gaps:
        now += gap
        taken += bucket.take(now)
        assert taken <= capacity + now * per_second + 1e-6


def charge(rates, times, user="user001", now=0.0):
    return [rates.charge(user, now)[0] for _ in range(times)]


def test_the_message_above_the_limit_is_refused_and_told_how_long_to_wait():
    rates = UserRates(60)
    assert charge(rates, 60) == [Verdict.PASS] * 60
    assert rates.charge("user001", 0.0) == (Verdict.REFUSE, 1.0)
    assert rates.charge("user001", 1.0) == (Verdict.PASS, 0.0)


def test_each_user_has_a_rate_of_its_own():
    rates = UserRates(1)
    assert charge(rates, 1, "user001") == [Verdict.PASS]
    assert charge(rates, 1, "user002") == [Verdict.PASS]


def test_three_times_the_limit_is_a_flood():
    rates = UserRates(10)
    verdicts = charge(rates, 10 * FLOOD_FACTOR + 1)
    assert verdicts.count(Verdict.PASS) == 10
    assert verdicts.count(Verdict.REFUSE) == 20
    assert verdicts[-1] is Verdict.FLOOD


def test_no_limit_lets_everything_pass():
    assert set(charge(UserRates(0), 10_000)) == {Verdict.PASS}


def test_a_sweep_forgets_only_those_whose_buckets_are_full_again():
    rates = UserRates(2)
    charge(rates, 3, "early")
    rates.sweep(30.0)
    assert rates.charge("early", 30.0)[0] is Verdict.PASS
    rates.sweep(60.0)
    rates.sweep(1000.0)
    assert charge(rates, 3, "early", 1000.0) == [Verdict.PASS, Verdict.PASS, Verdict.REFUSE]
    rates.sweep(1000.0)
    assert charge(rates, 1, "early", 1000.0) == [Verdict.REFUSE]


@given(gaps=moments)
def test_what_passes_in_any_minute_stays_within_twice_the_limit(gaps):
    rates, now, passed = UserRates(5), 0.0, []
    for gap in gaps:
        now += gap
        if rates.charge("user001", now)[0] is Verdict.PASS:
            passed.append(now)
    for moment in passed:
        assert sum(moment <= other < moment + 60 for other in passed) <= 10

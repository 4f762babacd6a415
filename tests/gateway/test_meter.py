import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.errors import CloseCode, Disconnect
from scm_trio.gateway.meter import FRAME_BURST, FRAMES_PER_SECOND, FrameMeter

from .serving import frame


def code_of(meter, data, now=0.0):
    with pytest.raises(Disconnect) as caught:
        meter.feed(data, now)
    return caught.value.code


def test_frames_are_counted_where_they_begin():
    meter = FrameMeter(1000)
    data = frame(1, b"a" * 50) + frame(9) + frame(1, b"b" * 300)
    assert meter.feed(data[:55], 0.0) == 1
    assert meter.feed(data[55:], 0.0) == 2


sizes = st.lists(
    st.tuples(st.sampled_from([1, 9, 10]), st.sampled_from([0, 1, 125, 126, 127, 300, 65_536])), max_size=8
)


@given(shape=sizes, cuts=st.lists(st.integers(0, 2000), max_size=20))
def test_however_the_bytes_arrive_the_frames_are_the_same(shape, cuts):
    whole = b"".join(frame(kind, b"\x88" * (size if kind == 1 else min(size, 125))) for kind, size in shape)
    meter, frames, at = FrameMeter(100_000), 0, 0
    for cut in cuts:
        frames += meter.feed(whole[at : at + cut], 0.0)
        at += cut
    frames += meter.feed(whole[at:], 0.0)
    assert frames == len(shape)
    assert not meter.closing


@pytest.mark.parametrize("size", [1000, 126, 125])
def test_a_message_counts_in_bytes_and_only_one_that_passes_the_limit_is_refused(size):
    assert FrameMeter(size).feed(frame(1, b"a" * size), 0.0) == 1
    assert code_of(FrameMeter(size), frame(1, b"a" * (size + 1))) is CloseCode.TOO_LARGE


def test_fragments_count_together_and_control_frames_between_them_do_not():
    meter = FrameMeter(100)
    meter.feed(frame(1, b"a" * 60, fin=False) + frame(9, b"p" * 100), 0.0)
    meter.feed(frame(0, b"a" * 40), 0.0)
    meter.feed(frame(1, b"a" * 60, fin=False), 0.0)
    assert code_of(meter, frame(0, b"a" * 41)) is CloseCode.TOO_LARGE


def test_a_large_promise_is_refused_by_its_header():
    assert code_of(FrameMeter(1000), b"\x82\xff" + (2**62).to_bytes(8, "big") + b"mask") is CloseCode.TOO_LARGE


def test_too_many_frames_are_a_flood_and_a_steady_pace_is_none():
    meter = FrameMeter(1000)
    meter.feed(frame(9) * FRAME_BURST, 0.0)
    assert code_of(meter, frame(9)) is CloseCode.FLOOD
    steady = FrameMeter(1000)
    for second in range(100):
        steady.feed(frame(9) * FRAMES_PER_SECOND, float(second))


def test_behind_a_refused_frame_only_the_close_is_of_interest():
    meter = FrameMeter(100)
    refused = frame(1, b"\x88" * 200) + frame(1, b"a" * 200) + frame(9) * 2000
    code_of(meter, refused[:150])
    meter.feed(refused[150:], 0.0)
    assert not meter.closing
    meter.feed(frame(8, b"\x03\xe8"), 0.0)
    assert meter.closing


def test_a_close_right_behind_a_refused_frame_is_seen():
    meter = FrameMeter(100)
    code_of(meter, frame(1, b"a" * 200) + frame(8))
    meter.feed(b"", 0.0)
    assert meter.closing

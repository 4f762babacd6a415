from __future__ import annotations

import pytest

from scm_trio.providers.tolerant_json import loads


def test_whole_characters_are_left_alone():
    assert loads('{"a": "春\\ud83d\\ude00"}'.encode()) == {"a": "春😀"}


def test_bytes_of_half_a_character_become_a_replacement():
    assert loads(b'"a\xe6\x98"') == "a\ufffd"


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (rb'"\ud83d"', "\ufffd"),
        (rb'"\ude00!"', "\ufffd!"),
        (rb'"\ud83d\ud83d\ude00"', "\ufffd😀"),
        (rb'"\\ud83d\ud83d"', "\\ud83d\ufffd"),
    ],
)
def test_escaped_halves_of_a_pair_become_a_replacement(escaped, text):
    assert loads(escaped) == text


def test_control_characters_that_are_not_escaped_are_read_as_they_are():
    assert loads(b'{"a": "\x01b\x0b\x0c\x1c\x1f"}\r\n\t') == {"a": "\x01b\x0b\x0c\x1c\x1f"}
    assert loads(b'"\\u001c\x1c"') == "\x1c\x1c"


@pytest.mark.parametrize("data", [b"\x0b{}", b'"a\nb"'])
def test_they_are_no_white_space_and_line_breaks_are_not_among_them(data):
    with pytest.raises(ValueError, match=r"."):
        loads(data)


@pytest.mark.parametrize("data", [b"", b"{", b"<html>", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(data):
    with pytest.raises(ValueError, match=r"."):
        loads(data)

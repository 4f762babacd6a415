"""What side questions and their answers have in common as texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.chat.side_text import cut, lang_of, plain_line, transcript, without_thinking
from scm_trio.model import Message


@pytest.mark.parametrize(
    ("texts", "lang"),
    [
        (["请解释一下供应链"], "zh"),
        (["用 Python 写一个 quicksort", "好的"], "zh"),
        (["What does 供 mean in this sentence about supply?"], "en"),
        (["サプライチェーンとは何ですか"], "en"),
        (["Quelle est la capitale ?"], "en"),
        (["???", ""], "en"),
        ([], "en"),
    ],
)
def test_the_language_is_that_of_the_texts(texts, lang):
    assert lang_of(texts) == lang


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  **Bold**  and `code`\n next\tline ", "Bold and code next line"),
        ("## A heading", "A heading"),
        ("[a link](https://x.example/?a=(b))", "a link)"),
        ("![alt](x.png) after", "alt after"),
        ('"quoted"', "quoted"),
        ("“『两层』”", "两层"),
        ('"', '"'),
        ("it's 'fine' here", "it's 'fine' here"),
        ("\u202eevil\u0000\u200b", "evil"),
        ("", ""),
    ],
)
def test_a_plain_line_has_no_markup_and_no_quotation_marks_around_it(text, line):
    assert plain_line(text) == line


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("short enough", "short enough"),
        ("exactly twenty chars", "exactly twenty chars"),
        ("a longer sentence than fits", "a longer sentence…"),
        ("one two three four, five", "one two three four…"),
        ("Donaudampfschifffahrtsgesellschaft", "Donaudampfschifffah…"),
        ("请解释一下供应链管理的核心概念，并且举例说明它们", "请解释一下供应链管理的核心概念，并且举…"),
        ("family emoji here 👨\u200d👩\u200d👧 abc", "family emoji here…"),
        ("家家家家家家家家家家家家家家家家家👍🏽👍🏽👍🏽", "家家家家家家家家家家家家家家家家家👍…"),
    ],
)
def test_a_cut_falls_between_words(text, short):
    assert cut(text, 20) == short


@given(st.text(), st.integers(2, 50))
def test_what_is_cut_is_never_longer_than_it_may_be(text, limit):
    short = cut(text, limit)
    assert len(short) <= limit
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_thinking_is_left_out_also_where_it_does_not_end():
    assert without_thinking("<think>a\nb</think>\nTitle") == "\nTitle"
    assert without_thinking("Before <THINKING>never ends") == "Before "
    assert without_thinking("a < b") == "a < b"


def test_a_conversation_is_told_with_its_speakers():
    said = [
        Message("m1", "s", "c", None, "user", "u", " Hi there "),
        Message("m2", "s", "c", "m1", "assistant", "u", "Hello, " * 9),
    ]
    assert transcript(said, "en", 20) == "User: Hi there\n\nAssistant: Hello, Hello…"
    assert transcript(said[:1], "zh", 20) == "用户：Hi there"

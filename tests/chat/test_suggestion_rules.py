"""How follow-up questions are found in what a model says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.chat.suggestion_rules import COUNT, MAX_QUESTION_CHARS, is_enough, questions_in, suggestion_turns
from scm_trio.model import Message

ABC = ("What is A?", "What is B?", "What is C?")


@pytest.mark.parametrize(
    "text",
    [
        "What is A?\nWhat is B?\nWhat is C?",
        "1. What is A?\n2. What is B?\n3. What is C?",
        "Here are three questions:\n\n1) What is A?\n2) What is B?\n3) What is C?\n\nLet me know!",
        "- What is A?\n* **What is B?**\n• `What is C?`",
        "(1) What is A?\n(2) What is B?\n(3) What is C?",
        "① What is A?\n② What is B?\n③ What is C?",
        '["What is A?", "What is B?", "What is C?"]',
        '```json\n["What is A?",\n "What is B?", "What is C?"]\n```',
        '{"questions": [{"question": "What is A?"}, {"question": "What is B?"}, {"n": 3, "text": "What is C?"}]}',
        'Sure: ["What is A?", "What is B?", "What is C?"] I hope this helps.',
        "Question 1: What is A?\nQuestion 2: What is B?\nQuestion 3: What is C?",
        "What is A? What is B? What is C?",
        '"What is A?"\n"What is B?"\n"What is C?"',
        "<think>1. Hmm?</think>What is A?\nWhat is B?\nWhat is C?",
        "What is A?\nWhat is A ?\nwhat is a\nWhat is B?\nWhat is C?\nWhat is D?",
    ],
)
def test_questions_are_found_however_they_are_listed(text):
    assert questions_in(text, ()) == ABC


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "1. 如何降低库存成本？\n2. 什么是供应商管理？\n3. 牛鞭效应是什么？",
            ("如何降低库存成本？", "什么是供应商管理？", "牛鞭效应是什么？"),
        ),
        ("一、如何降低库存成本\n二、什么是供应商管理", ("如何降低库存成本", "什么是供应商管理")),
        ("问题1：如何降低成本？", ("如何降低成本？",)),
        ("以下是三个问题：\n如何降低成本？\n怎样预测需求？", ("如何降低成本？", "怎样预测需求？")),
        ("Tell me more about A\nExplain B", ("Tell me more about A", "Explain B")),
        ("1. 供应链：可以实现，不过有方式来利用！\n2. 这是一种常规的功能。每天都用。", ()),
        ("I'm here to help. What's on your mind?", ()),
        ("User: What is A?", ()),
        ("A" * (MAX_QUESTION_CHARS + 1) + "?", ()),
        ("[not json, What is A?", ()),
        ("[]", ()),
        ("[1, null, [2]]", ()),
        ("[" * 995 + "]" * 995, ()),
        ("Here [sic] they are:\nWhat is A?", ("What is A?",)),
        ("", ()),
        ("\n```\n```", ()),
    ],
)
def test_what_is_no_short_question_is_left_out(text, found):
    assert questions_in(text, ()) == found


def test_a_line_that_nobody_listened_to_the_end_of_is_left_out():
    assert questions_in("1. What is A?\n" + "blah! " * 400 + "\n2. What is", ()) == ("What is A?",)


def test_what_was_asked_already_is_left_out():
    assert questions_in("What is A?\nWhat is B?", ["what is a"]) == ("What is B?",)


@given(st.text())
def test_any_text_gives_at_most_three_different_short_lines(text):
    found = questions_in(text, ())
    assert len(found) == len({each.casefold() for each in found}) <= COUNT
    assert all(0 < len(each) <= MAX_QUESTION_CHARS and each == each.strip() and "\n" not in each for each in found)


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("What is A?\nWhat is B?\nWhat is C?", False),
        ("What is A?\nWhat is B?\nWhat is C?\n", True),
        ('["What is A?",\n"What is B?",\n"What is C?",\n', False),
        ("x" * 2001, True),
        ("", False),
    ],
)
def test_nobody_waits_for_more_than_three_lines(text, enough):
    assert is_enough(text) is enough


def test_the_model_is_asked_in_the_conversation_s_language():
    said = [Message("m", "s", "c", None, "user", "u", "请解释一下供应链")]
    assert "三个简短问题" in suggestion_turns(said)[0].content
    said = [Message("m", "s", "c", None, "user", "u", "Explain " * 500)]
    (turn,) = suggestion_turns(said)
    assert "three short questions" in turn.content
    assert len(turn.content) < 1000

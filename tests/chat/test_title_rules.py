"""When a model's text is a title, and what is one without it."""

import pytest

from scm_trio.chat.title_rules import MAX_TITLE_CHARS, is_enough, title_from, title_of, title_turns
from scm_trio.model import Message

QUESTION = "What is supply chain management, and why does it matter to a small company?"


def said(*texts):
    roles = ("user", "assistant")
    return [Message(f"m{n}", "s", "c", None, roles[n % 2], "u", text) for n, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Supply Chain Basics", "Supply Chain Basics"),
        ("  \n\nSupply Chain Basics.\n\nIt is about supply.", "Supply Chain Basics"),
        ('"Supply Chain Basics"', "Supply Chain Basics"),
        ("**Title:** Supply Chain Basics", "Supply Chain Basics"),
        ("# Supply Chain Basics", "Supply Chain Basics"),
        ("Here is a short title:\n\n“Supply Chain Basics”", "Supply Chain Basics"),
        ("标题：《供应链管理入门》", "供应链管理入门"),
        ("供应链管理入门。", "供应链管理入门"),
        ("<think>The user wants…</think>Supply Chain Basics", "Supply Chain Basics"),
        ("Why supply chains matter?", "Why supply chains matter?"),
        ("Managing the Supply Chain of a Small Company", "Managing the Supply Chain of…"),
        ("Baking bread 🍞", "Baking bread 🍞"),
    ],
)
def test_a_title_is_found_and_cleaned(text, title):
    assert title_from(text, QUESTION) == title
    assert len(title) <= MAX_TITLE_CHARS


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t\n",
        "…",
        "<think>I wonder",
        "Title:",
        "Untitled",
        "标题",
        "Supply chain management is the coordination of all activities from sourcing to delivery.",
        "What is supply chain management, and why does it matter",
        "Write a short title for this conversation",
        "Answer with the title alone.",
        "为这段对话起一个简短的标题",
        "User: What is it?",
        "助手：供应链",
        "I'm here to assist you with that.",
        "I cannot do that.",
        "You can ask me anything",
        "Sure, I can help",
        "As an AI language model",
        "抱歉，我不能这样做",
        "你可以在任何一种方面访问我们的助手",
        "supply supply supply supply supply",
        "the chain the chain the chain",
    ],
)
def test_what_is_of_no_use_is_no_title(text):
    assert title_from(text, QUESTION) is None


def test_a_short_question_may_be_its_own_title():
    assert title_from("Café opening hours", "Café opening hours?") == "Café opening hours"


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("hi", "hi"),
        ("What is supply chain management?", "What is supply chain…"),
        ("\n\n  ## Fix this:\n```python\nx = 1\n```", "Fix this"),
        ("```\nprint(1)\n```", "print(1)"),
        ("请解释一下供应链管理的核心概念", "请解释一下供应链管理的核心概念"),
        ("请" * 40, "请" * 29 + "…"),
        ("👍👍", None),
        ("?!", None),
        ("", None),
    ],
)
def test_without_a_model_the_first_words_of_the_question_are_the_title(question, title):
    assert title_of(question) == title


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        ("", False),
        ("\n\n", False),
        ("Supply chain", False),
        ("Here is a title:\n", False),
        ("***\n", False),
        ("Here is a title:\nSupply\n", True),
        ("Supply\n", True),
        ("<think>one\ntwo\n", False),
        ("x" * 401, True),
    ],
)
def test_nobody_waits_for_more_than_a_line(text, enough):
    assert is_enough(text) is enough


def test_the_model_is_asked_in_the_conversation_s_language_and_shown_only_its_beginning():
    (turn,) = title_turns(said("What is it? " * 100, "It is. " * 100))
    assert turn.role == "user"
    assert turn.content.startswith("User: What is it?")
    assert "Write a short title" in turn.content
    assert len(turn.content) < 1300
    (turn,) = title_turns(said("请解释一下供应链", "好"))
    assert "起一个简短的标题" in turn.content

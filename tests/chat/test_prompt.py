import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio.chat.prompt import IMAGE_TOKENS, TURN_OVERHEAD_TOKENS, build_turns, estimate_tokens, estimate_turns
from scm_trio.errors import ContextTooLong
from scm_trio.model import Image, Message, Turn


def message(role, content):
    return Message("m", "s", "c", None, role, "user001", content)


def dialogue(*texts):
    return [message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]


def build(history, question="Why?", *, system=None, context=None, most=None):
    return build_turns(system, history, question, context_tokens=context, max_tokens=most)


def test_a_prompt_is_the_system_prompt_the_history_and_the_question():
    turns = build(dialogue("Hi", "Hello"), system="Be brief.")
    assert turns == (
        Turn("system", "Be brief."),
        Turn("user", "Hi"),
        Turn("assistant", "Hello"),
        Turn("user", "Why?"),
    )


def test_without_system_prompt_and_history_the_question_stands_alone():
    assert build([]) == (Turn("user", "Why?"),)
    assert build([], system="") == (Turn("user", "Why?"),)


def test_an_answer_that_never_said_anything_is_left_out():
    assert build(dialogue("Hi", "")) == (Turn("user", "Hi"), Turn("user", "Why?"))


@pytest.mark.parametrize("context", [None, 4096])
def test_a_history_never_begins_with_an_answer(context):
    history = [message("assistant", "Hello"), message("assistant", "Hello again"), *dialogue("Hi", "Hi!")]
    assert build(history, context=context)[0] == Turn("user", "Hi")


def test_the_oldest_turns_are_dropped_first_and_never_half_a_pair():
    history = dialogue("a" * 400, "b" * 400, "c" * 40, "d" * 40)
    # 100 tokens and the marks for each long turn, 10 and the marks for each short one; half of 256 is for the answer.
    turns = build(history, context=256, most=128)
    assert [turn.content[0] for turn in turns] == ["c", "d", "W"]
    turns = build(history, context=512, most=256)
    assert [turn.content[0] for turn in turns] == ["a", "b", "c", "d", "W"]


def test_chinese_counts_a_token_a_character():
    assert estimate_tokens("供应链") == 3
    assert estimate_tokens("supply chain") == 3
    assert estimate_tokens("供应 chain") == 4
    assert estimate_tokens("") == 0
    english, chinese = dialogue("a" * 200, "b"), dialogue("链" * 200, "b")
    assert len(build(english, context=256)) == 3
    assert len(build(chinese, context=256)) == 1


def test_turns_cost_their_marks_too():
    assert estimate_turns([Turn("user", "abcd"), Turn("assistant", "ab")]) == 2 + 2 * TURN_OVERHEAD_TOKENS


def test_an_image_counts_as_many_tokens_whatever_its_size():
    small, large = (Turn("user", "What?", (Image("image/png", b"x" * size),)) for size in (1, 1_000_000))
    both = Turn("user", "What?", (*small.images, *large.images))
    without = estimate_turns((Turn("user", "What?"),))
    assert [estimate_turns((turn,)) - without for turn in (small, large, both)] == [
        IMAGE_TOKENS,
        IMAGE_TOKENS,
        2 * IMAGE_TOKENS,
    ]


def test_a_question_that_does_not_fit_by_itself_is_refused():
    with pytest.raises(ContextTooLong):
        build([], "问" * 300, context=256)


def test_a_wish_for_a_long_answer_leaves_half_of_the_context_to_the_prompt():
    assert build([], "问" * 100, context=256, most=100_000) == (Turn("user", "问" * 100),)
    with pytest.raises(ContextTooLong):
        build([], "问" * 130, context=256, most=100_000)


texts = st.lists(st.text("ab 供应链", min_size=0, max_size=300), max_size=8)


@given(history=texts, question=st.text("a链", min_size=1, max_size=40), context=st.integers(256, 2048))
def test_whatever_the_history_the_prompt_fits_and_ends_with_the_question(history, question, context):
    turns = build(dialogue(*history), question, context=context)
    assert turns[-1] == Turn("user", question)
    assert turns[0].role == "user"
    assert estimate_turns(turns) <= context - context // 4
    kept = [turn.content for turn in turns[:-1]]
    spoken = [text for text in history if text]
    assert kept == spoken[len(spoken) - len(kept) :]

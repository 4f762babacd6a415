import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from scm_trio.chat.prompt import (
    IMAGE_TOKENS,
    TURN_OVERHEAD_TOKENS,
    Document,
    Said,
    answer_limit,
    build_turns,
    estimate_tokens,
    estimate_turns,
    fitted,
)
from scm_trio.errors import ContextTooLong
from scm_trio.model import Image, Prompt, Turn


def message(role, content):
    return Said(role, content)


def dialogue(*texts):
    return [message("assistant" if index % 2 else "user", text) for index, text in enumerate(texts)]


def build(history, question="Why?", *, system=None, context=None, most=None):
    asked = Said("user", question) if isinstance(question, str) else question
    return build_turns(system, history, asked, context_tokens=context, max_tokens=most)


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


@pytest.mark.parametrize(
    ("asked", "prompt_tokens", "context", "sent"),
    [(None, 100, 256, None), (500, 100, None, 500), (50, 100, 256, 50), (6000, 4000, 8192, 4192), (500, 0, 256, 256)],
)
def test_no_more_is_asked_for_than_the_prompt_leaves(asked, prompt_tokens, context, sent):
    assert answer_limit(asked, prompt_tokens, context) == sent


def test_a_prompt_is_made_to_fit_another_model_or_does_not():
    prompt = Prompt("m", (Turn("user", "问" * 96),), max_tokens=1000)
    assert fitted(prompt, 256).max_tokens == 156
    assert fitted(prompt, 200).max_tokens == 100
    assert fitted(prompt, 198) is None
    assert fitted(evolve(prompt, max_tokens=None), 200).max_tokens is None


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


def test_the_count_is_the_same_for_every_text_as_character_by_character():
    for text in ("", "a", "abcd", "abcde", "链", "a链bc🚚d", "\x7f\x80", "\ud800"):
        wide = sum(1 for char in text if char > "\x7f")
        assert estimate_tokens(text) == wide + -(-(len(text) - wide) // 4)


# ---- documents


def document(text, name="a.md", **more):
    return Document(name, "text/markdown", text, **more)


def test_a_document_is_quoted_before_what_is_said_about_it():
    said = Said("user", "Why?", (document("# Hi"),), ('[Attached image: "b.png"]',))
    assert build([], said)[-1].content == (
        'Attached file "a.md" (text/markdown):\n```\n# Hi\n```\n\n[Attached image: "b.png"]\n\nWhy?'
    )


def test_a_fence_is_longer_than_any_inside():
    assert document("a ``` b").quote(None).splitlines()[1] == "````"
    assert document("`````\ncode\n`````").quote(None).splitlines()[1] == "``````"
    assert document("a `` b").quote(None).splitlines()[1] == "```"


def test_a_document_that_was_read_in_part_says_so():
    assert document("abc").quote(None).endswith("\n```")
    assert document("abc", is_whole=False).quote(None).endswith("```\n[The file goes on; the rest is left out here.]")


def test_a_document_is_cut_to_the_models_context():
    (turn,) = build([], Said("user", "Why?", (document("x" * 100_000),)), context=1024)
    assert 700 < estimate_turns([turn]) <= 1024 - 256
    assert turn.content.endswith("```\n[The file goes on; the rest is left out here.]\n\nWhy?")


def test_documents_share_the_room_and_a_small_one_leaves_the_rest_to_the_others():
    said = Said("user", "Why?", (document("s" * 40, "s.md"), document("x" * 100_000), document("链" * 100_000, "c.md")))
    (turn,) = build([], said, context=2048)
    assert estimate_turns([turn]) <= 2048 - 512
    assert "s" * 40 in turn.content
    assert 300 < turn.content.count("链") < 800
    assert 1500 < turn.content.count("x") < 3000


@pytest.mark.parametrize("text", ["`" * 50_000, "a" + "`" * 50_000, "``` " * 20_000])
@pytest.mark.parametrize("name", ["a.md", "链" * 120])
def test_neither_a_name_nor_a_fence_makes_a_prompt_too_long(text, name):
    (turn,) = build([], Said("user", "Why?", (document(text, name), document("x" * 9000))), context=2048)
    assert estimate_turns([turn]) <= 2048 - 512
    assert turn.content.count("x") > 1000


def test_a_document_without_room_is_told_by_its_name():
    (turn,) = build([], Said("user", "问" * 150, (document("x" * 1000, "b.md"),)), context=256)
    assert turn.content == '[Attached file: "b.md". It is left out here.]\n\n' + "问" * 150


def test_a_document_stays_readable_when_the_conversation_goes_on():
    first = Said("user", "What is this?", (document("x" * 100_000),))
    turns = build([first, message("assistant", "Letters.")], "How many?", context=4096)
    assert [turn.role for turn in turns] == ["user", "assistant", "user"]
    assert turns[0].content.count("x") > 4000
    assert estimate_turns(turns) <= 4096 - 1024


def test_newer_documents_come_first_and_older_ones_never_cost_a_turn():
    history = [Said("user", f"q{n}", (document(char * 100_000, f"{char}.md"),)) for n, char in enumerate("XYZ")]
    turns = build(history, "Why?", context=4096)
    assert len(turns) == 4
    counts = [turn.content.count(char) for turn, char in zip(turns, "XYZ", strict=False)]
    assert counts[2] > 4000
    assert counts[0] == 1
    assert '[Attached file: "X.md". It is left out here.]' in turns[0].content


documents = st.builds(document, st.text("a链`\n", max_size=2000), st.sampled_from(["a.md", "链.txt"]))
sayings = st.lists(
    st.builds(
        Said, st.just("user"), st.text("a链", min_size=1, max_size=200), st.lists(documents, max_size=3).map(tuple)
    ),
    max_size=5,
)


@given(history=sayings, question=st.lists(documents, max_size=3), context=st.integers(1024, 4096))
@settings(derandomize=True, database=None, deadline=None)
def test_whatever_is_attached_the_prompt_fits(history, question, context):
    turns = build(history, Said("user", "Why?", tuple(question)), context=context)
    assert turns[-1].content.endswith("Why?")
    assert estimate_turns(turns) <= context - context // 4

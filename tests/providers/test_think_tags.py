from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scm_trio import config, errors
from scm_trio.model import Delta, DeltaKind, Finish, FinishReason, Prompt, ProviderEvent
from scm_trio.providers.openai import Dialect, openai_provider
from scm_trio.providers.openai_errors import Classifier
from scm_trio.providers.openai_reader import OpenAiReader
from scm_trio.providers.sse import SseEvent
from scm_trio.providers.think_tags import ThinkTags

ANSWERS = [
    ("<think>hm, 春</think>\n\nHello", "hm, 春", "Hello"),
    ("\n<think>\nhm</think>Hello", "hm", "Hello"),
    ("<think></think>\nHello", "", "Hello"),
    ("<think>a < b </thin k> c</think>x</think>", "a < b </thin k> c", "x</think>"),
    ("<think>never closed", "never closed", ""),
    ("<think>never closed </thi", "never closed </thi", ""),
    ("Hello <think>no</think>", "", "Hello <think>no</think>"),
    ("<thinking>no</thinking>", "", "<thinking>no</thinking>"),
    ("  Hello", "", "  Hello"),
    ("<thi", "", "<thi"),
    ("", "", ""),
]


def read(pieces: list[str]) -> tuple[str, str]:
    """Thinking and text."""
    tags = ThinkTags()
    told = [each for piece in pieces for each in ([(DeltaKind.TEXT, piece)] if tags.is_over else tags.feed(piece))]
    told += tags.close()
    assert all(text for _, text in told if not tags.is_over)
    return tuple(
        "".join(text for kind, text in told if kind is wanted) for wanted in (DeltaKind.REASONING, DeltaKind.TEXT)
    )


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(("answer", "thought", "text"), ANSWERS)
def test_thinking_is_told_from_text_wherever_it_is_cut(answer, thought, text, size):
    assert read([answer[start : start + size] for start in range(0, len(answer), size)]) == (thought, text)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "think", ">", "a", " ", "\n", "春"]), max_size=12))
def test_how_it_is_cut_makes_no_difference(pieces):
    assert read(pieces) == read(["".join(pieces)]) == read(list("".join(pieces)))


def events_of(
    *contents: str, end: bytes = b"[DONE]", tags: ThinkTags | None = None
) -> tuple[list[ProviderEvent], OpenAiReader]:
    reader = OpenAiReader(Classifier("acme"), tags)
    events = [SseEvent(orjson.dumps({"choices": [{"delta": {"content": content}}]})) for content in contents]
    return [*reader.feed([*events, *([SseEvent(end)] if end else [])]), *reader.close()], reader


def test_a_reader_with_tags_tells_thinking_as_reasoning():
    events, _ = events_of("<thi", "nk>hm", "</think>", "\n\n", "Hello", tags=ThinkTags())
    assert events == [Delta("hm", DeltaKind.REASONING), Delta("Hello"), Finish(FinishReason.COMPLETED)]


def test_a_reader_without_them_takes_text_as_it_is():
    events, _ = events_of("<think>hm</think>")
    assert events[0] == Delta("<think>hm</think>")


@pytest.mark.parametrize("end", [b"", b'{"error": {"message": "boom"}}'], ids=["cut", "failed"])
def test_what_was_held_back_is_told_before_a_failure(end):
    events, reader = events_of("<thi", end=end, tags=ThinkTags())
    assert events == [Delta("<thi")]
    assert type(reader.failure) is errors.ProviderUnavailable


@pytest.mark.parametrize(
    ("preset", "tags"),
    [("zhipu", True), ("ollama", True), ("vllm", True), ("llamacpp", True), ("deepseek", False), (None, False)],
)
def test_it_is_a_matter_of_the_preset(preset, tags):
    provider = openai_provider("acme", config.Provider("openai", preset=preset), connect_timeout_s=1)
    assert isinstance(provider._dialect, Dialect)
    reader = provider._dialect.reader("acme", Prompt("m", ()), ())
    assert (reader._think_tags is not None) is tags

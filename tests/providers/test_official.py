"""The vendors' own packages judge what stands for them in these tests."""

from __future__ import annotations

import json

import pytest

from scm_trio.providers import tolerant_json
from scm_trio.providers.sse import SseDecoder

from . import official
from .expected import SAMPLES, expected_of

CHUNKS = {name: each for name, each in expected_of("openai_chat").items() if name.endswith(".sse")}
EVENTS = {name: each for name, each in expected_of("anthropic").items() if name.endswith(".sse")}


def payloads(name: str) -> list[dict]:
    """The JSON of every event, in order."""
    events = SseDecoder().feed((SAMPLES / name).read_bytes())
    return [tolerant_json.loads(event.data) for event in events if event.data and not event.data.startswith(b"[DONE]")]


def rejected(name: str, judge) -> list[int]:
    return [index for index, payload in enumerate(payloads(name)) if not judge(payload)]


@pytest.mark.parametrize("name", CHUNKS)
def test_openais_types_refuse_of_the_samples_just_what_is_listed(name):
    assert rejected(name, official.is_chunk) == CHUNKS[name]["strict_type_rejects"]


@pytest.mark.parametrize("name", EVENTS)
def test_anthropics_types_refuse_of_the_samples_just_what_is_listed(name):
    assert rejected(name, official.is_event) == EVENTS[name]["strict_type_rejects"]


@pytest.mark.parametrize("name", [name for name in expected_of("openai_chat") if name.startswith("openai_nonstream")])
def test_the_sample_bodies_are_official_too(name):
    assert official.is_completion(json.loads((SAMPLES / name).read_bytes()))
    assert official.is_message(json.loads((SAMPLES / "anthropic_nonstream.json").read_bytes()))


@pytest.mark.parametrize(
    ("judge", "good", "wrong"),
    [
        (official.is_chunk, official.chunk({"content": "a"}), {"created": "1"}),
        (official.is_event, official.text_delta("a"), {"index": "0"}),
        (official.is_completion, official.completion("a"), {"created": 1.5}),
        (official.is_message, official.message("a"), {"role": "user"}),
    ],
)
def test_the_judges_are_strict(judge, good, wrong):
    payload = json.loads(good.partition(b"data: ")[2] or good)
    assert judge(payload)
    assert not judge({**payload, **wrong})

"""The real adapters against another maker's OpenAI, Azure and Anthropic: what comes through, and what we make of faults."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
from attrs import field, frozen

from scm_trio import config
from scm_trio.errors import ProviderAuth, ProviderRateLimited, ProviderUnavailable, RequestFailed
from scm_trio.model import (
    Attempt,
    AttemptFailed,
    Delta,
    DeltaKind,
    Finish,
    FinishReason,
    Prompt,
    ProviderEvent,
    ToolCall,
    Turn,
    Usage,
)
from scm_trio.providers.base import Provider
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.fallback import Terms
from tests.e2e.aimock import KEY, Aimock, running_aimock

pytestmark = pytest.mark.usefixtures("node_packages")

TEXT = "供应链是物流、信息流和资金流的协调。 🚚 Goods move; so does what is known of them."
USAGE = {"prompt_tokens": 7, "completion_tokens": 11}
LATENCY_MS = 2
"""Between two pieces. Above 0, or the cut comes before what is to be cut was sent."""
SLOW_MS = 40
LIMIT_S = 30.0


def error(status: int, kind: str, **more: object) -> dict:
    return {"error": {"message": f"no, because of {KEY}", "type": kind}, "status": status, **more}


BUSY = error(429, "rate_limit_error", retryAfter=7)
SOON = error(429, "rate_limit_error", retryAfter=0)
FIXTURES = [
    {"match": {"userMessage": "good"}, "response": {"content": TEXT, "usage": USAGE}},
    {"match": {"userMessage": "long"}, "response": {"content": TEXT, "finishReason": "length", "usage": USAGE}},
    {"match": {"userMessage": "refused"}, "response": {"content": TEXT, "finishReason": "refusal"}},
    {"match": {"userMessage": "think"}, "response": {"content": TEXT, "reasoning": "Let me see."}},
    {
        "match": {"userMessage": "call"},
        "response": {
            "content": "Looking.",
            "toolCalls": [{"name": "stock", "arguments": {"item": "螺栓"}, "id": "c1"}],
        },
    },
    {"match": {"userMessage": "busy"}, "response": BUSY},
    {"match": {"userMessage": "broken"}, "response": error(500, "server_error")},
    {"match": {"userMessage": "overloaded"}, "response": error(503, "overloaded_error")},
    {"match": {"userMessage": "cut"}, "response": {"content": TEXT}, "latency": LATENCY_MS, "truncateAfterChunks": 6},
    {"match": {"userMessage": "mute"}, "response": {"content": TEXT}, "latency": LATENCY_MS, "truncateAfterChunks": 1},
    {"match": {"userMessage": "drop"}, "response": {"content": TEXT}, "chaos": {"disconnectRate": 1}},
    {"match": {"userMessage": "garbage"}, "response": {"content": TEXT}, "chaos": {"malformedRate": 1}},
    {"match": {"userMessage": "slow"}, "response": {"content": TEXT}, "latency": SLOW_MS},
    # Counted for each vendor apart, by what it is asked.
    *(
        {"match": {"userMessage": f"soon {vendor}", "sequenceIndex": index}, "response": response}
        for vendor in ("openai", "azure", "azure v1", "anthropic")
        for index, response in enumerate((SOON, SOON, {"content": TEXT}))
    ),
]


@pytest.fixture(scope="module")
def aimock(node_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aimock]:
    with running_aimock(tmp_path_factory.mktemp("aimock"), FIXTURES) as running:
        yield running


VENDORS = {
    "openai": {"kind": "openai", "base_url": "{url}/v1"},
    "azure": {"kind": "azure", "base_url": "{url}", "api_version": "2024-10-21", "deployment": "my-gpt"},
    "azure v1": {"kind": "azure", "base_url": "{url}", "deployment": "my-gpt"},
    "anthropic": {"kind": "anthropic", "base_url": "{url}"},
}
every_vendor = pytest.mark.parametrize("vendor", VENDORS)


@frozen
class Answer:
    events: list[ProviderEvent] = field(factory=list)
    batches: list[str] = field(factory=list)
    """The text of each batch that had some."""
    failures: list[RequestFailed] = field(factory=list)

    @property
    def text(self) -> str:
        return "".join(self.batches)

    @property
    def failure(self) -> RequestFailed:
        (failure,) = self.failures
        assert not [event for event in self.events if isinstance(event, Finish)], "a failed answer is not complete"
        return failure

    @property
    def end(self) -> Finish:
        assert self.failures == []
        last = self.events[-1]
        assert isinstance(last, Finish)
        return last


def settings_of(vendor: str, aimock: Aimock, key: str = KEY) -> config.Provider:
    given = {**VENDORS[vendor], "api_key": key, "models": ("o3-mini",)}
    given["base_url"] = given["base_url"].format(url=aimock.url)
    return config.Provider(**given)


@asynccontextmanager
async def provider_of(vendor: str, aimock: Aimock, key: str = KEY) -> AsyncIterator[Provider]:
    ai = config.Ai(providers={vendor: settings_of(vendor, aimock, key)})
    provider = build_providers(ai, connect_timeout_s=5)[vendor]
    try:
        yield provider
    finally:
        await provider.aclose()


async def ask(provider: Provider, question: str, *, stream: bool = True) -> Answer:
    answer = Answer()
    prompt = Prompt("o3-mini", (Turn("user", question),), stream=stream)
    try:
        with trio.fail_after(LIMIT_S):
            async with provider.stream(prompt) as batches:
                async for batch in batches:
                    answer.events.extend(batch)
                    kept = [each.text for each in batch if isinstance(each, Delta) and each.kind is DeltaKind.TEXT]
                    if kept:
                        answer.batches.append("".join(kept))
    except RequestFailed as exc:
        answer.failures.append(exc)
    return answer


@every_vendor
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_good_answer_comes_through_with_its_usage(aimock: Aimock, vendor: str, stream: bool) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, "good", stream=stream)
    assert answer.text == TEXT
    assert answer.end.reason is FinishReason.COMPLETED
    usages = [event for event in answer.events if isinstance(event, Usage)]
    assert usages[-1] == Usage(7, 11)


@every_vendor
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("question", "reason"), [("long", FinishReason.LENGTH), ("refused", FinishReason.CONTENT_FILTER)]
)
async def test_why_an_answer_ended_is_told(
    aimock: Aimock, vendor: str, stream: bool, question: str, reason: FinishReason
) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, question, stream=stream)
    assert answer.text == TEXT
    assert answer.end.reason is reason


@every_vendor
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_thinking_is_told_apart(aimock: Aimock, vendor: str, stream: bool) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, "think", stream=stream)
    thoughts = [each.text for each in answer.events if isinstance(each, Delta) and each.kind is DeltaKind.REASONING]
    assert ("".join(thoughts), answer.text) == ("Let me see.", TEXT)


@every_vendor
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_tool_call_does_no_harm(aimock: Aimock, vendor: str, stream: bool) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, "call", stream=stream)
    assert answer.text == "Looking."
    (call,) = [each for each in answer.events if isinstance(each, ToolCall)]
    assert (call.call_id, call.name, call.arguments) == ("c1", "stock", '{"item":"螺栓"}')
    assert answer.end.reason is FinishReason.TOOL_CALLS


@every_vendor
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("question", "kind", "retryable", "wait_s"),
    [
        ("busy", ProviderRateLimited, True, 7.0),
        ("broken", ProviderUnavailable, True, None),
        ("overloaded", ProviderUnavailable, True, None),
        ("drop", ProviderUnavailable, True, None),
        ("garbage", ProviderUnavailable, True, None),
    ],
)
async def test_a_refusal_says_what_to_do(
    aimock: Aimock,
    vendor: str,
    stream: bool,
    question: str,
    kind: type[RequestFailed],
    retryable: bool,
    wait_s: float | None,
) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, question, stream=stream)
        failure = answer.failure
        assert (type(failure), failure.retryable, failure.retry_after_s) == (kind, retryable, wait_s)
        assert answer.events == []
        assert KEY not in failure.detail
        assert (await ask(provider, "good")).text == TEXT, "the next one is served"


@every_vendor
async def test_a_wrong_key_is_a_matter_of_the_key(aimock: Aimock, vendor: str) -> None:
    async with provider_of(vendor, aimock, "sk-wrong") as provider:
        failure = (await ask(provider, "good")).failure
    assert (type(failure), failure.retryable) == (ProviderAuth, False)


@every_vendor
@pytest.mark.parametrize("question", ["cut", "mute"])
async def test_a_stream_that_is_cut_keeps_what_was_said_and_is_never_complete(
    aimock: Aimock, vendor: str, question: str
) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, question)
        failure = answer.failure
        assert (type(failure), failure.retryable) == (ProviderUnavailable, True)
        assert TEXT.startswith(answer.text)
        assert bool(answer.text) == (question == "cut")
        assert (await ask(provider, "good")).text == TEXT


@every_vendor
async def test_a_slow_answer_comes_piece_by_piece(aimock: Aimock, vendor: str) -> None:
    async with provider_of(vendor, aimock) as provider:
        answer = await ask(provider, "slow")
    assert answer.text == TEXT
    assert len(answer.batches) > 3, "they are told when they come, not when all are there"


@every_vendor
async def test_leaving_a_slow_answer_costs_no_time_and_no_connection(aimock: Aimock, vendor: str) -> None:
    async with provider_of(vendor, aimock) as provider:
        with trio.fail_after(LIMIT_S):
            for _ in range(20):
                async with provider.stream(Prompt("o3-mini", (Turn("user", "slow"),))) as batches:
                    await anext(batches)
        assert (await ask(provider, "good")).text == TEXT


@every_vendor
async def test_a_busy_vendor_is_asked_again(aimock: Aimock, vendor: str) -> None:
    ai = config.Ai(providers={vendor: settings_of(vendor, aimock)})
    built = build_providers(ai, connect_timeout_s=5)
    (chain,) = chain_providers(built, ai, Terms(jitter=lambda: 0.0)).values()
    answer = await ask(chain, f"soon {vendor}!")
    await chain.aclose()
    assert [type(event) for event in answer.events[:5]] == [Attempt, AttemptFailed, Attempt, AttemptFailed, Attempt]
    assert answer.text == TEXT

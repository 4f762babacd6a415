"""What we ask is what the vendors' own clients ask: the same question goes through both, to the same recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import anthropic
import httpx2
import openai
import orjson
import pytest
import trio
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from attrs import define, field, frozen
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

from scm_trio import config
from scm_trio.model import Image, Prompt, Turn
from scm_trio.providers.catalogue import build_providers

from . import official

URL = "http://vendor.example"
AZURE_VERSION = "2024-10-21"
ASKED = (Turn("system", "Be brief."), Turn("user", "春"), Turn("assistant", "Spring."), Turn("user", "And 秋?"))
SAID = [{"role": turn.role, "content": turn.content} for turn in ASKED]
IDENTITY = ("authorization", "api-key", "x-api-key", "anthropic-version")


@frozen
class Request:
    """What a vendor sees of a request, names of headers in lower case."""

    target: str
    identity: dict[str, str]
    content_type: str
    body: dict[str, Any]


@define
class Recorder:
    """Stands for a vendor towards both clients."""

    answer: bytes
    content_type: str
    requests: list[Request] = field(factory=list)

    def note(self, target: str, headers: dict[str, str], body: bytes) -> None:
        identity = {name: headers[name] for name in IDENTITY if name in headers}
        self.requests.append(Request(target, identity, headers["content-type"], orjson.loads(body)))

    def official(self, request: httpx2.Request) -> httpx2.Response:
        self.note(request.url.raw_path.decode(), dict(request.headers), request.content)
        return httpx2.Response(200, content=self.answer, headers={"content-type": self.content_type})

    async def ours(self, peer) -> None:
        head, _, body = (await peer.request()).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        self.note(first.split(" ")[1], headers, body)
        await peer.respond(self.answer, self.content_type)


@frozen
class Case:
    """One question, put in two ways.

    Attributes:
        settings: of our provider.
        prompt: what is asked of us.
        client: makes the vendor's own client, on the given transport.
        arguments: what that client is called with for the same question.
    """

    settings: dict[str, Any]
    prompt: Prompt
    client: Callable[[httpx2.Client], openai.OpenAI | anthropic.Anthropic]
    arguments: dict[str, Any]

    @property
    def is_anthropic(self) -> bool:
        return self.settings["kind"] == "anthropic"

    def recorder(self) -> Recorder:
        streams = (OPENAI_STREAM, ANTHROPIC_STREAM)
        bodies = (official.completion("a"), official.message("a"))
        answer = (streams if self.prompt.stream else bodies)[self.is_anthropic]
        return Recorder(answer, "text/event-stream" if self.prompt.stream else "application/json")

    def ask_officially(self, transport: httpx2.MockTransport) -> None:
        with self.client(httpx2.Client(transport=transport)) as client:
            create = client.messages.create if self.is_anthropic else client.chat.completions.create
            create(**self.arguments)


OPENAI_STREAM = official.chunk({"content": "a"}) + official.chunk(finish_reason="stop") + official.DONE
ANTHROPIC_STREAM = (
    official.message_start()
    + official.block_start()
    + official.text_delta("a")
    + official.event("content_block_stop", index=0)
    + official.message_delta()
    + official.event("message_stop")
)


def openai_client(base_url: str):
    return lambda http: openai.OpenAI(base_url=base_url, api_key="s3cret", http_client=http)


def azure_client(**credentials: str):
    return lambda http: openai.AzureOpenAI(
        azure_endpoint=URL, api_version=AZURE_VERSION, http_client=http, **credentials
    )


def anthropic_client(version: str):
    headers = {"anthropic-version": version}
    return lambda http: anthropic.Anthropic(base_url=URL, api_key="s3cret", http_client=http, default_headers=headers)


OPENAI = {"kind": "openai", "base_url": f"{URL}/v1", "api_key": "s3cret", "token_limit_field": "max_completion_tokens"}
DEEPSEEK = {"kind": "openai", "base_url": URL, "api_key": "s3cret", "preset": "deepseek"}
AZURE = {"kind": "azure", "base_url": URL, "api_version": AZURE_VERSION}
ANTHROPIC = {"kind": "anthropic", "base_url": URL, "api_key": "s3cret"}
USAGE = {"stream_options": {"include_usage": True}}
SAY = {"model": "gpt-x", "messages": SAID}
PIXEL = Image("image/png", b"\x89PNG\r\n\x1a\n")
PHOTO = Image("image/jpeg", b"\xff\xd8\xff")
SEEN = (Turn("user", "What is this?", (PIXEL, PHOTO)), Turn("assistant", "A dot."), Turn("user", "And now?"))
SAID_OF_IMAGES = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/"}},
        ],
    },
    {"role": "assistant", "content": "A dot."},
    {"role": "user", "content": "And now?"},
]
SAID_OF_IMAGES_TO_ANTHROPIC = [
    {
        "role": "user",
        "content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}},
            {"type": "text", "text": "What is this?"},
        ],
    },
    *SAID_OF_IMAGES[1:],
]
CLAUDE = {"model": "claude-x", "messages": SAID[1:], "system": "Be brief.", "max_tokens": 99}


def prompt(model: str = "gpt-x", turns: tuple[Turn, ...] = ASKED, **options: Any) -> Prompt:
    return Prompt(model, turns, **options)


CASES = {
    "openai": Case(OPENAI, prompt(), openai_client(f"{URL}/v1"), {**SAY, **USAGE, "stream": True}),
    "openai whole": Case(OPENAI, prompt(stream=False), openai_client(f"{URL}/v1"), SAY),
    "openai with limits": Case(
        OPENAI,
        prompt(temperature=0.5, max_tokens=99),
        openai_client(f"{URL}/v1"),
        {**SAY, **USAGE, "stream": True, "temperature": 0.5, "max_completion_tokens": 99},
    ),
    "openai without usage": Case(
        {**OPENAI, "include_usage": False}, prompt(), openai_client(f"{URL}/v1"), {**SAY, "stream": True}
    ),
    "deepseek": Case(
        DEEPSEEK,
        prompt(temperature=0.0, max_tokens=99),
        openai_client(URL),
        {**SAY, **USAGE, "stream": True, "temperature": 0.0, "max_tokens": 99},
    ),
    "azure": Case(
        {**AZURE, "api_key": "s3cret"},
        prompt(max_tokens=99),
        azure_client(api_key="s3cret"),
        {**SAY, **USAGE, "stream": True, "max_completion_tokens": 99},
    ),
    "azure whole": Case({**AZURE, "api_key": "s3cret"}, prompt(stream=False), azure_client(api_key="s3cret"), SAY),
    "azure with Entra": Case(
        {**AZURE, "bearer_token": "t0ken"},
        prompt(temperature=1.5),
        azure_client(azure_ad_token="t0ken"),
        {**SAY, **USAGE, "stream": True, "temperature": 1.5},
    ),
    "azure v1 with Entra": Case(
        {"kind": "azure", "base_url": URL, "bearer_token": "s3cret"},
        prompt(),
        openai_client(f"{URL}/openai/v1"),
        {**SAY, **USAGE, "stream": True},
    ),
    "openai with images": Case(
        OPENAI,
        prompt(turns=SEEN),
        openai_client(f"{URL}/v1"),
        {"model": "gpt-x", "messages": SAID_OF_IMAGES, **USAGE, "stream": True},
    ),
    "azure with images": Case(
        {**AZURE, "api_key": "s3cret"},
        prompt(turns=SEEN, stream=False),
        azure_client(api_key="s3cret"),
        {"model": "gpt-x", "messages": SAID_OF_IMAGES},
    ),
    "anthropic with images": Case(
        {**ANTHROPIC, "api_version": "2026-10-21"},
        prompt("claude-x", SEEN, max_tokens=99),
        anthropic_client("2026-10-21"),
        {"model": "claude-x", "messages": SAID_OF_IMAGES_TO_ANTHROPIC, "max_tokens": 99, "stream": True},
    ),
    "anthropic": Case(
        {**ANTHROPIC, "api_version": "2023-06-01"},
        prompt("claude-x", temperature=0.5, max_tokens=99),
        anthropic_client("2023-06-01"),
        # Only the API's older version has a temperature, and the package's types are of the newer one.
        {**CLAUDE, "stream": True, "extra_body": {"temperature": 0.5}},
    ),
    "anthropic whole": Case(
        {**ANTHROPIC, "api_version": "2023-06-01"},
        prompt("claude-x", stream=False, max_tokens=99),
        anthropic_client("2023-06-01"),
        CLAUDE,
    ),
    "anthropic 2026": Case(
        {**ANTHROPIC, "api_version": "2026-10-21"},
        prompt("claude-x", temperature=0.5, max_tokens=99),
        anthropic_client("2026-10-21"),
        {**CLAUDE, "stream": True},
    ),
}


async def ask_us(case: Case, memory_net, recorder: Recorder) -> Request:
    ai = config.Ai(providers={"acme": config.Provider(**case.settings)})
    provider = build_providers(ai, connect_timeout_s=3, dialer=memory_net.dialer(recorder.ours))["acme"]
    async with provider.stream(case.prompt) as events:
        assert [event async for batch in events for event in batch]
    return recorder.requests[-1]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_we_ask_as_the_official_client_does(memory_net, case):
    recorder = case.recorder()
    ours = await ask_us(case, memory_net, recorder)
    await trio.to_thread.run_sync(case.ask_officially, httpx2.MockTransport(recorder.official))
    theirs = recorder.requests[-1]
    assert (ours.target, ours.content_type) == (theirs.target, theirs.content_type)
    assert {"stream": False, **ours.body} == {"stream": False, **theirs.body}
    assert identity_of(ours) == identity_of(theirs)


def identity_of(request: Request) -> dict[str, str]:
    """Anthropic takes a key in either of two headers: its documentation shows the one, its package uses the other."""
    identity = dict(request.identity)
    if "anthropic-version" in identity and "x-api-key" in identity:
        identity["authorization"] = f"Bearer {identity.pop('x-api-key')}"
    return identity


PARAMS = {
    ("openai", True): CompletionCreateParamsStreaming,
    ("openai", False): CompletionCreateParamsNonStreaming,
    ("azure", True): CompletionCreateParamsStreaming,
    ("azure", False): CompletionCreateParamsNonStreaming,
    ("anthropic", True): MessageCreateParamsStreaming,
    ("anthropic", False): MessageCreateParamsNonStreaming,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_our_requests_are_what_the_official_types_describe(memory_net, case):
    body = (await ask_us(case, memory_net, case.recorder())).body
    if case.settings.get("api_version") == "2023-06-01":
        body.pop("temperature", None)  # which the types of the newer version do not have
    assert unknown(PARAMS[case.settings["kind"], case.prompt.stream], body) == {}


def unknown(params: Any, body: dict[str, Any]) -> dict[str, Any]:
    """What the type does not know of a body that otherwise fits it."""
    judge = TypeAdapter(params)  # held on to: it goes on judging while items are read
    known = read(judge.validate_python(body))
    return {name: value for name, value in body.items() if known.get(name) != value}


def read(value: Any) -> Any:
    """What was validated; pydantic does so with the items of an ``Iterable`` only when they are asked for."""
    if isinstance(value, dict):
        return {name: read(item) for name, item in value.items()}
    return [read(item) for item in value] if isinstance(value, Iterable) and not isinstance(value, str) else value


def test_the_types_refuse_what_they_do_not_describe():
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    assert unknown(CompletionCreateParamsStreaming, body) == {}
    assert unknown(CompletionCreateParamsStreaming, {**body, "x": 1}) == {"x": 1}
    with pytest.raises(ValueError, match="stream"):
        unknown(CompletionCreateParamsStreaming, {**body, "stream": "always"})

"""The same conversation with every vendor's counterpart: one line of the configuration says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from attrs import frozen

from tests.e2e import aimock as aimock_process
from tests.e2e.aimock import Aimock, running_aimock
from tests.e2e.client import Client, Message, chatting
from tests.e2e.process import ServerProcess, running_server, settings
from tests.e2e.spark import FIRST, PASSWORD, Spark, running_spark
from tests.providers.spark_server import APP_ID, KEY, SECRET

pytestmark = pytest.mark.usefixtures("node_packages")

Q1, Q2 = "我叫小艾，请记住我的名字。", "我刚才问了什么？"
SECOND = f"您先问了：{Q1}"
FIXTURES = [
    {"match": {"userMessage": Q1, "turnIndex": 0}, "response": {"content": FIRST}},
    {"match": {"userMessage": Q2, "turnIndex": 1}, "response": {"content": SECOND}},
]
PATIENCE_S = 120.0


@frozen
class Counterparts:
    aimock: Aimock
    spark: Spark

    def received(self, provider: str) -> list[dict[str, Any]]:
        """The conversation that the provider's counterpart was last asked to go on with."""
        if provider.startswith("spark"):
            return self.spark.asked[-1]
        return self.aimock.asked()[-1]["body"]["messages"]


@pytest.fixture(scope="module")
def counterparts(node_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Counterparts]:
    with running_aimock(tmp_path_factory.mktemp("aimock"), FIXTURES) as aimock, running_spark() as spark:
        yield Counterparts(aimock, spark)


def sections(counterparts: Counterparts, provider: str) -> dict[str, Any]:
    """Everything but ``default-provider`` is the same for all."""
    url, key = counterparts.aimock.url, aimock_process.KEY
    signed = {"app-id": APP_ID, "api-key": KEY, "api-secret": SECRET}
    providers = {
        "openai": {"kind": "openai", "base-url": f"{url}/v1", "api-key": key, "models": ["gpt-x"]},
        "azure": {"kind": "azure", "base-url": url, "api-key": key, "deployment": "my-gpt"},
        "azure-classic": {
            "kind": "azure",
            "base-url": url,
            "api-key": key,
            "deployment": "my-gpt",
            "api-version": "2024-10-21",
        },
        "anthropic": {"kind": "anthropic", "base-url": url, "api-key": key, "models": ["claude-x"]},
        "spark": {
            "kind": "spark",
            "transport": "websocket",
            "base-url": counterparts.spark.websocket_url,
            "models": ["4.0Ultra"],
            **signed,
        },
        "spark-http": {
            "kind": "spark",
            "base-url": counterparts.spark.http_url,
            "api-key": PASSWORD,
            "models": ["4.0Ultra"],
        },
        "local": {"kind": "local"},
    }
    return {
        "ai": {"default-provider": provider, "providers": providers},
        "store": {"url": "sqlite:///chat.db"},
    }


CLOUD = ("openai", "azure", "azure-classic", "anthropic", "spark", "spark-http")


def converse(server: ServerProcess) -> tuple[list[str], list[Message]]:
    """Two turns over two connections of the same session, as after a reload of the page."""
    texts, ends = [], []
    for question in (Q1, Q2):
        with chatting(server) as client:
            text, end = ask(client, question)
        texts.append(text)
        ends.append(end["data"])
    return texts, ends


def ask(client: Client, question: str) -> tuple[str, Message]:
    client.ask(question, maxTokens=40)
    messages = client.until("CHAT_STREAM_END", within_s=PATIENCE_S)
    assert not [each for each in messages if each["type"] == "ERROR"]
    text = "".join(each["data"]["content"] for each in messages if each["type"] == "CHAT_STREAM_DATA")
    return text, messages[-1]


@pytest.mark.parametrize("provider", CLOUD)
def test_the_second_turn_knows_the_first(counterparts: Counterparts, tmp_path: Path, provider: str) -> None:
    with running_server(tmp_path, **sections(counterparts, provider)) as server:
        texts, ends = converse(server)
    assert texts == [FIRST, SECOND]
    assert [end["finishReason"] for end in ends] == ["completed", "completed"]
    assert [(each["role"], each["content"]) for each in counterparts.received(provider)] == [
        ("user", Q1),
        ("assistant", FIRST),
        ("user", Q2),
    ]


def test_the_local_model_reads_the_first_turn_again(counterparts: Counterparts, tmp_path: Path) -> None:
    with running_server(tmp_path, **sections(counterparts, "local")) as server:
        texts, ends = converse(server)
    assert all(texts)
    first, then = (end["usage"] for end in ends)
    assert (first["source"], then["source"]) == ("provider", "provider")
    assert then["promptTokens"] > first["promptTokens"] + first["completionTokens"]


def test_one_line_of_the_configuration_is_all_that_changes(counterparts: Counterparts, tmp_path: Path) -> None:
    whole = [settings(tmp_path, **sections(counterparts, provider)) for provider in (*CLOUD, "local")]
    files = [yaml.safe_dump({"scm": each}, allow_unicode=True).splitlines() for each in whole]
    differing = [lines for lines in zip(*files, strict=True) if len(set(lines)) > 1]
    assert differing == [tuple(f"    default-provider: {provider}" for provider in (*CLOUD, "local"))]

"""Every configuration in the operator's guide can be loaded, built and asked, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from scm_trio.config import Ai
from scm_trio.config_loader import load_config
from scm_trio.errors import ProviderUnavailable
from scm_trio.model import Prompt, Turn
from scm_trio.providers.base import Provider
from scm_trio.providers.catalogue import build_providers, chain_providers
from scm_trio.providers.connections import Dialer
from scm_trio.providers.fallback import Terms
from scm_trio.providers.local import Local

GUIDE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "providers:" in block]

ADDRESSES = {
    "openai": ("api.openai.com", 443),
    "proxy": ("llm.example", 443),
    "azure": ("NAME.openai.azure.com", 443),
    "azure-classic": ("NAME.openai.azure.com", 443),
    "azure-entra": ("NAME.openai.azure.com", 443),
    "anthropic": ("api.anthropic.com", 443),
    "anthropic-2026": ("api.anthropic.com", 443),
    "spark": ("spark-api-open.xf-yun.com", 443),
    "spark-ws": ("spark-api.xf-yun.com", 443),
    "spark-tuned": ("maas-api.cn-huabei-1.xf-yun.com", 443),
    "deepseek": ("api.deepseek.com", 443),
    "qwen": ("dashscope.aliyuncs.com", 443),
    "moonshot": ("api.moonshot.cn", 443),
    "zhipu": ("open.bigmodel.cn", 443),
    "ollama": ("localhost", 11434),
    "vllm": ("10.0.0.5", 8000),
    "llamacpp": ("10.0.0.6", 8080),
}
LOCAL = ("mine", "small")


def loaded(block: str, folder: Path) -> Ai:
    file = folder / "scm.yml"
    file.write_text(block, encoding="utf-8")
    return load_config(file, dict.fromkeys(re.findall(r"\$\{(\w+)\}", block), "a-secret")).ai


@pytest.fixture
def documented(tmp_path) -> dict[str, Ai]:
    """The first section of each name, in a configuration of its own block."""
    found: dict[str, Ai] = {}
    for block in BLOCKS:
        ai = loaded(block, tmp_path)
        for name in ai.providers:
            found.setdefault(name, ai)
    return found


def asked_at(provider: Provider, opened: list[tuple[str, int]]) -> tuple[str, int]:
    """Where a question goes to; nobody is there."""

    async def ask() -> None:
        with pytest.raises(ProviderUnavailable):
            async with provider.stream(Prompt(provider.models[0] if provider.models else "m", (Turn("user", "hi"),))):
                pytest.fail("nobody is there")

    trio.run(ask)
    return opened[-1]


def test_every_vendor_is_shown(documented):
    assert set(documented) == {*ADDRESSES, *LOCAL}


@pytest.mark.parametrize("name", ADDRESSES)
def test_a_shown_configuration_asks_its_vendor(documented, name):
    opened: list[tuple[str, int]] = []

    async def open_stream(host: str, port: int) -> trio.abc.Stream:
        opened.append((host, port))
        raise OSError("nobody is there")

    built = build_providers(documented[name], connect_timeout_s=1, dialer=Dialer(open_stream=open_stream))
    host, port = asked_at(built[name], opened)
    assert (host.lower(), port) == (ADDRESSES[name][0].lower(), ADDRESSES[name][1])


@pytest.mark.parametrize("name", LOCAL)
def test_a_shown_local_model_can_be_built(documented, name):
    assert isinstance(build_providers(documented[name], connect_timeout_s=1)[name], Local)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_shown_block_is_a_whole_configuration(tmp_path, block):
    ai = loaded(block, tmp_path)
    built = build_providers(ai, connect_timeout_s=1)
    assert set(built) == set(ai.providers)
    assert set(chain_providers(built, ai, Terms())) == set(ai.providers)

from __future__ import annotations

import pytest

from scm_trio.errors import ConfigError
from scm_trio.providers.presets import OPENAI, PRESETS, find_preset


def test_without_anything_it_is_openai():
    preset = find_preset("p", None, None)
    assert preset.base_url == "https://api.openai.com/v1"
    assert preset.token_limit_field == "max_completion_tokens"


@pytest.mark.parametrize("name", ["deepseek", "qwen", "moonshot", "zhipu", "ollama", "vllm", "llamacpp"])
def test_a_preset_is_found_by_its_name(name):
    preset = find_preset("p", name, "http://elsewhere")
    assert preset is PRESETS[name]
    assert preset.token_limit_field == "max_tokens"


def test_an_unknown_name_is_a_configuration_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"acme.*gpt.*deepseek, qwen"):
        find_preset("acme", "gpt", None)


@pytest.mark.parametrize(
    ("base_url", "preset"),
    [
        ("https://eu.api.openai.com/v1", OPENAI),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", PRESETS["qwen"]),
        ("https://api.z.ai/api/paas/v4/", PRESETS["zhipu"]),
        ("https://api.moonshot.ai/v1", PRESETS["moonshot"]),
    ],
)
def test_without_a_name_the_domain_tells(base_url, preset):
    assert find_preset("p", None, base_url) is preset


@pytest.mark.parametrize("base_url", ["http://localhost:1234/v1", "https://notopenai.com/v1", "nonsense"])
def test_another_server_gets_what_suits_most(base_url):
    preset = find_preset("p", None, base_url)
    assert preset.base_url == base_url
    assert preset.token_limit_field == "max_tokens"
    assert preset.codes == {}

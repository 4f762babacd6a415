from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from scm_trio.config import Provider
from scm_trio.providers.presets import OPENAI, PRESETS, find_preset


def test_without_anything_it_is_openai():
    preset = find_preset(None, None)
    assert preset.base_url == "https://api.openai.com/v1"
    assert preset.token_limit_field == "max_completion_tokens"


@pytest.mark.parametrize("name", ["deepseek", "qwen", "moonshot", "zhipu", "ollama", "vllm", "llamacpp"])
def test_a_preset_is_found_by_its_name(name):
    preset = find_preset(name, "http://elsewhere")
    assert preset is PRESETS[name]
    assert preset.token_limit_field == "max_tokens"


def test_the_configuration_knows_the_names_of_all_presets():
    names, _none = get_args(get_type_hints(Provider)["preset"])
    assert get_args(names) == tuple(PRESETS)


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
    assert find_preset(None, base_url) is preset


@pytest.mark.parametrize("base_url", ["http://localhost:1234/v1", "https://notopenai.com/v1", "nonsense"])
def test_another_server_gets_what_suits_most(base_url):
    preset = find_preset(None, base_url)
    assert preset.base_url == base_url
    assert preset.token_limit_field == "max_tokens"
    assert preset.codes == {}

"""How the servers that speak OpenAI's protocol differ from OpenAI, by the names that a configuration may give."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

from scm_trio.errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnknown,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from scm_trio.providers.openai_errors import Billing, Codes


@frozen
class Preset:
    """One vendor's defaults and switches.

    Attributes:
        base_url: where it is, unless the configuration says otherwise.
        domains: whose hosts speak this vendor's dialect too, when no preset is named.
        token_limit_field: what the request calls the limit of the answer's length.
        whole_body_extras: fields of a request that is not streamed.
        codes: meanings of error codes that are its own.
        no_credit: what its messages say where they are about money, though code and status could be about a rate.
        think_tags: whether some of its models write their thinking into the text, between ``<think>`` and ``</think>``.
        takes_images: whether any of its models does; of a server's own model only its configuration can know.
    """

    base_url: str
    domains: tuple[str, ...] = ()
    token_limit_field: str = "max_tokens"  # noqa: S105 - tokens of text
    whole_body_extras: Mapping[str, Any] = field(factory=dict)
    codes: Codes = field(factory=dict)
    no_credit: re.Pattern[str] | None = None
    think_tags: bool = False
    takes_images: bool = True


_ZHIPU_CODES: Codes = {
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), ProviderAuth),
    **{str(code): ProviderAuth for code in range(1110, 1122)},
    **dict.fromkeys(("1113", "1304", "1308", "1309", "1310", "1311", "1313"), Billing),
    **{str(code): ProviderRejected for code in range(1210, 1216)},
    "1211": ModelUnknown,
    "1261": ContextTooLong,
    **dict.fromkeys(("1300", "1301"), ContentFiltered),
    **dict.fromkeys(("1302", "1303", "1305"), ProviderRateLimited),
    "1312": ProviderUnavailable,
}
# There it is the limit of tokens per minute, which passes by itself.
_QWEN_CODES: Codes = {
    **dict.fromkeys(("insufficient_quota", "limit_requests", "Throttling"), ProviderRateLimited),
    **dict.fromkeys(("Throttling.AllocationQuota", "Throttling.RateQuota"), ProviderRateLimited),
    "AllocationQuota.FreeTierOnly": Billing,
}
# Unlike that limit, what was given away for a trial does not come back.
_NO_MORE_FREE = re.compile(r"\bfree (?:tier|quota|allocated quota)\b", re.IGNORECASE)

OPENAI = Preset(
    "https://api.openai.com/v1",
    ("openai.com",),
    token_limit_field="max_completion_tokens",  # noqa: S106 - tokens of text
)
PRESETS: Mapping[str, Preset] = {
    "deepseek": Preset("https://api.deepseek.com", ("deepseek.com",), takes_images=False),
    "qwen": Preset(
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        ("aliyuncs.com",),
        # Thinking models refuse to answer in one body while they think.
        whole_body_extras={"enable_thinking": False},
        codes=_QWEN_CODES,
        no_credit=_NO_MORE_FREE,
    ),
    "moonshot": Preset("https://api.moonshot.cn/v1", ("moonshot.cn", "moonshot.ai")),
    "zhipu": Preset(
        "https://open.bigmodel.cn/api/paas/v4", ("bigmodel.cn", "z.ai"), codes=_ZHIPU_CODES, think_tags=True
    ),
    # What these make of their models' thinking depends on how they were started.
    "ollama": Preset("http://localhost:11434/v1", think_tags=True),
    "vllm": Preset("http://localhost:8000/v1", think_tags=True),
    "llamacpp": Preset("http://localhost:8080/v1", think_tags=True),
}


def find_preset(name: str | None, base_url: str | None) -> Preset:
    """Return the preset called ``name``; without a name the one of ``base_url``'s domain, else what suits most."""
    if name is not None:
        return PRESETS[name]
    if base_url is None:
        return OPENAI
    host = urlsplit(base_url).hostname or ""
    for preset in (OPENAI, *PRESETS.values()):
        if any(f".{host}".endswith(f".{domain}") for domain in preset.domains):
            return preset
    return Preset(base_url)

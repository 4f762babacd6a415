"""The codes that vendors document for themselves, by preset: what becomes of each."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from scm_trio import errors
from scm_trio.errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnknown,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
)
from scm_trio.model import Prompt
from scm_trio.providers.openai import Dialect
from scm_trio.providers.openai_errors import Classifier, error_in
from scm_trio.providers.presets import OPENAI, PRESETS


class Quota:
    """A billing stop: ``ProviderAuth`` with the field ``quota``."""


def classifier(preset: str) -> Classifier:
    """As the provider of the preset has it."""
    chosen = PRESETS.get(preset, OPENAI)
    dialect = Dialect(codes=chosen.codes, no_credit=chosen.no_credit)
    return dialect.reader("acme", Prompt("m", ()), ()).classifier


def body(code: Any = None, kind: Any = None, message: str = "synthetic") -> bytes:
    return orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def kind_of(failure: errors.RequestFailed) -> type:
    return Quota if failure.field == "quota" else type(failure)


#   preset, status, code, type, message, what becomes of it
REFUSALS = [
    ("openai", 400, "context_length_exceeded", "invalid_request_error", "", ContextTooLong),
    ("openai", 400, "content_policy_violation", "invalid_request_error", "", ContentFiltered),
    ("openai", 400, "invalid_value", "invalid_request_error", "", ProviderRejected),
    ("openai", 401, "invalid_api_key", "invalid_request_error", "", ProviderAuth),
    ("openai", 403, "unsupported_country_region_territory", "request_forbidden", "", ProviderAuth),
    ("openai", 404, "model_not_found", "invalid_request_error", "", ModelUnknown),
    ("openai", 409, None, "conflict", "", ProviderUnavailable),
    ("openai", 422, None, "invalid_request_error", "", ProviderRejected),
    ("openai", 429, "slow_down", "rate_limit_error", "", ProviderRateLimited),
    ("openai", 429, "rate_limit_exceeded", "tokens", "", ProviderRateLimited),
    ("openai", 429, "insufficient_quota", "insufficient_quota", "", Quota),
    ("openai", 429, "credit_balance_exhausted", None, "", Quota),
    ("openai", 429, "organization_spend_limit_exceeded", None, "", Quota),
    ("openai", 429, "project_spend_limit_exceeded", None, "", Quota),
    ("openai", 429, "organization_usage_limit_exceeded", None, "", Quota),
    ("openai", 500, None, "server_error", "", ProviderUnavailable),
    ("openai", 503, "server_is_overloaded", "service_unavailable_error", "", ProviderUnavailable),
    ("deepseek", 400, "invalid_request_error", "invalid_request_error", "", ProviderRejected),
    ("deepseek", 401, "invalid_request_error", "authentication_error", "Authentication Fails", ProviderAuth),
    ("deepseek", 402, "invalid_request_error", "unknown_error", "Insufficient Balance", Quota),
    ("deepseek", 422, "invalid_request_error", "invalid_request_error", "", ProviderRejected),
    ("deepseek", 429, "rate_limit_reached", None, "", ProviderRateLimited),
    ("deepseek", 500, None, None, "", ProviderUnavailable),
    ("deepseek", 503, None, None, "", ProviderUnavailable),
    ("qwen", 400, "data_inspection_failed", "data_inspection_failed", "", ContentFiltered),
    ("qwen", 400, "Arrearage", "Arrearage", "", Quota),
    ("qwen", 400, None, None, "parameter.enable_thinking must be set to false", ProviderRejected),
    ("qwen", 401, "invalid_api_key", "invalid_request_error", "", ProviderAuth),
    ("qwen", 403, "access_denied", "access_denied", "", ProviderAuth),
    ("qwen", 404, "model_not_found", "invalid_request_error", "", ModelUnknown),
    ("qwen", 429, "limit_requests", "limit_requests", "Requests rate limit exceeded", ProviderRateLimited),
    ("qwen", 429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota", ProviderRateLimited),
    ("qwen", 429, "Throttling.AllocationQuota", None, "Allocated quota exceeded", ProviderRateLimited),
    ("qwen", 429, "limit_burst_rate", None, "Request rate increased too quickly", ProviderRateLimited),
    ("qwen", 429, "insufficient_quota", None, "Free allocated quota exceeded.", Quota),
    ("qwen", 403, "AllocationQuota.FreeTierOnly", None, "The free tier of the model has been exhausted.", Quota),
    ("moonshot", 400, None, "invalid_request_error", "", ProviderRejected),
    ("moonshot", 400, None, "content_filter", "", ContentFiltered),
    ("moonshot", 401, None, "invalid_authentication_error", "", ProviderAuth),
    ("moonshot", 403, None, "permission_denied_error", "", ProviderAuth),
    ("moonshot", 404, None, "resource_not_found_error", "Not found the model", ModelUnknown),
    ("moonshot", 429, None, "exceeded_current_quota_error", "", Quota),
    ("moonshot", 429, None, "rate_limit_reached_error", "", ProviderRateLimited),
    ("moonshot", 429, None, "engine_overloaded_error", "", ProviderUnavailable),
    ("moonshot", 499, None, None, "client closed request", ProviderRejected),
    ("moonshot", 500, None, "server_error", "", ProviderUnavailable),
    *[("zhipu", 401, str(code), None, "", ProviderAuth) for code in range(1000, 1005)],
    *[("zhipu", 429, str(code), None, "", ProviderAuth) for code in range(1110, 1122) if code != 1113],
    ("zhipu", 429, "1113", None, "", Quota),
    *[("zhipu", 400, str(code), None, "", ProviderRejected) for code in range(1210, 1216) if code != 1211],
    ("zhipu", 400, "1211", None, "", ModelUnknown),
    ("zhipu", 400, "1261", None, "", ContextTooLong),
    ("zhipu", 400, "1300", None, "", ContentFiltered),
    ("zhipu", 400, "1301", None, "", ContentFiltered),
    *[("zhipu", 429, code, None, "", ProviderRateLimited) for code in ("1302", "1303", "1305")],
    ("zhipu", 429, "1312", None, "", ProviderUnavailable),
    *[("zhipu", 429, code, None, "", Quota) for code in ("1304", "1308", "1309", "1310", "1311", "1313")],
    ("zhipu", 434, None, None, "", ProviderAuth),
    ("zhipu", 435, None, None, "", ProviderRejected),
    ("ollama", 400, None, "invalid_request_error", "", ProviderRejected),
    ("ollama", 404, None, "not_found_error", "model 'x' not found", ModelUnknown),
    ("ollama", 500, None, "api_error", "", ProviderUnavailable),
    ("vllm", 400, 400, "BadRequestError", "This model's maximum context length is 8192 tokens", ContextTooLong),
    ("vllm", 400, 400, "BadRequestError", "", ProviderRejected),
    ("vllm", 404, 404, "NotFoundError", "The model `x` does not exist.", ModelUnknown),
    ("llamacpp", 400, 400, "exceed_context_size_error", "", ContextTooLong),
    ("llamacpp", 500, 400, "exceed_context_size_error", "", ContextTooLong),
    ("llamacpp", 500, 500, "server_error", "Context size has been exceeded.", ContextTooLong),
    ("llamacpp", 503, 503, "unavailable_error", "Loading model", ProviderUnavailable),
    ("llamacpp", 501, 501, "not_supported_error", "", ProviderRejected),
    ("llamacpp", 401, 401, "authentication_error", "", ProviderAuth),
]


@pytest.mark.parametrize(("preset", "status", "code", "kind", "message", "becomes"), REFUSALS)
def test_a_documented_code_becomes_what_it_means(preset, status, code, kind, message, becomes):
    failure = classifier(preset).refused(status, {}, body(code, kind, message or "synthetic"))
    assert kind_of(failure) is becomes
    assert failure.retryable is (becomes in {ProviderRateLimited, ProviderUnavailable})


IN_THE_ANSWER = [
    ("qwen", "data_inspection_failed", None, "", ContentFiltered),
    ("qwen", "Throttling.AllocationQuota", None, "Allocated quota exceeded", ProviderRateLimited),
    ("zhipu", "1301", None, "", ContentFiltered),
    ("zhipu", "1302", None, "", ProviderRateLimited),
    ("vllm", 500, "InternalServerError", "", ProviderUnavailable),
    ("vllm", 400, "BadRequestError", "", ProviderRejected),
    ("llamacpp", 500, "server_error", "Context size has been exceeded.", ContextTooLong),
    ("openai", None, "server_error", "", ProviderUnavailable),
    ("openai", "rate_limit_exceeded", "tokens", "", ProviderRateLimited),
    ("openai", "invalid_api_key", "invalid_request_error", "", ProviderAuth),
]


@pytest.mark.parametrize(("preset", "code", "kind", "message", "becomes"), IN_THE_ANSWER)
def test_within_an_answer_it_means_the_same(preset, code, kind, message, becomes):
    error = error_in(orjson.loads(body(code, kind, message or "synthetic")))
    assert kind_of(classifier(preset).failed(error)) is becomes


def test_the_same_code_is_no_longer_the_same_elsewhere():
    """``insufficient_quota`` is an empty account at OpenAI, and the limit of tokens per minute at DashScope."""
    refused = {name: classifier(name).refused(429, {}, body("insufficient_quota")) for name in ("openai", "qwen")}
    assert {name: kind_of(failure) for name, failure in refused.items()} == {
        "openai": Quota,
        "qwen": ProviderRateLimited,
    }

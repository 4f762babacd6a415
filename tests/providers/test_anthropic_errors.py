from __future__ import annotations

import orjson
import pytest

from scm_trio import errors
from scm_trio.providers.anthropic_errors import AnthropicClassifier

from .expected import check_refusal, http_errors


def refused(status: int, kind: str, message: str = "?", headers: dict | None = None, **rest: object):
    error = {"type": kind, "message": message, **rest}
    body = orjson.dumps({"type": "error", "error": error, "request_id": "req_1"})
    return AnthropicClassifier("claude", model="claude-x").refused(status, headers or {}, body)


@pytest.mark.parametrize("case", http_errors("anthropic"), ids=lambda case: case["name"])
def test_a_refusal_becomes_the_right_failure(case):
    failure = AnthropicClassifier("claude").refused(case["status"], case["headers"], case["body_text"].encode())
    check_refusal(failure, case["expected"])


@pytest.mark.parametrize(
    ("status", "kind", "failure"),
    [
        (400, "invalid_request_error", errors.ProviderRejected),
        (401, "authentication_error", errors.ProviderAuth),
        (402, "billing_error", errors.ProviderAuth),
        (403, "permission_error", errors.ProviderAuth),
        (404, "not_found_error", errors.ProviderRejected),
        (409, "conflict_error", errors.ProviderUnavailable),
        (413, "request_too_large", errors.ProviderRejected),
        (429, "rate_limit_error", errors.ProviderRateLimited),
        (500, "api_error", errors.ProviderUnavailable),
        (504, "timeout_error", errors.ProviderUnavailable),
        (529, "overloaded_error", errors.ProviderUnavailable),
        (529, "something_new", errors.ProviderUnavailable),
        (418, "something_new", errors.ProviderRejected),
    ],
)
def test_types_and_statuses_say_what_to_do(status, kind, failure):
    assert type(refused(status, kind)) is failure


@pytest.mark.parametrize("code", ["enforced_spend_limit_reached", "contract_spend_limit_reached"])
def test_a_spend_limit_does_not_go_away_by_waiting(code):
    failure = refused(429, "rate_limit_error", details={"error_code": code})
    assert (type(failure), failure.field) == (errors.ProviderAuth, "quota")
    assert code in failure.detail


@pytest.mark.parametrize("details", [{"error_code": "ramp_limit_exceeded"}, {}, None, []])
def test_any_other_limit_does(details):
    failure = refused(429, "rate_limit_error", headers={"retry-after": "8"}, details=details)
    assert (type(failure), failure.retry_after_s) == (errors.ProviderRateLimited, 8)


@pytest.mark.parametrize(
    "message",
    [
        "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing.",
        "You have reached your specified API usage limits. You will regain access on 2026-12-01.",
    ],
)
def test_a_bad_request_may_be_a_billing_stop(message):
    failure = refused(400, "invalid_request_error", message)
    assert (type(failure), failure.field) == (errors.ProviderAuth, "quota")


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210000 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000, decrease input length",
        "Input is too long for requested model.",
    ],
)
def test_a_bad_request_may_be_too_long(message):
    assert type(refused(400, "invalid_request_error", message)) is errors.ContextTooLong


def test_a_bad_request_may_be_a_filter():
    failure = refused(400, "invalid_request_error", "Output blocked by content filtering policy")
    assert type(failure) is errors.ContentFiltered


def test_a_model_that_is_not_there_is_named():
    failure = refused(404, "not_found_error", "model: claude-9")
    assert type(failure) is errors.ModelUnknown
    assert failure.params == {"model": "claude-x"}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("temperature: Extra inputs are not permitted", "data.temperature"),
        ("max_tokens: 99999 > 64000, which is the maximum allowed number of output tokens", "data.maxTokens"),
        ("messages.0: text content blocks must be non-empty", None),
    ],
)
def test_a_complaint_about_a_parameter_names_the_field_it_came_from(message, field):
    failure = refused(400, "invalid_request_error", message)
    assert (type(failure), failure.field) == (errors.ProviderRejected, field)


def test_a_key_does_not_show():
    failure = AnthropicClassifier("claude", secrets=("s3cret",)).refused(401, {}, b"bad key s3cret or sk-ant-api03-x")
    assert failure.detail == "claude: status 401 bad key *** or ***"

from __future__ import annotations

import json

import pytest

from scm_trio import errors
from scm_trio.providers.openai_errors import Classifier, VendorError, error_field, error_in
from scm_trio.providers.presets import PRESETS
from scm_trio.providers.refusals import redacted, retry_after_s

from .expected import SAMPLES, check_refusal

VENDORS = {"dashscope": "qwen"}
CASES = [
    case
    for case in json.loads((SAMPLES / "http_errors.json").read_text())
    if not case["provider"].startswith(("anthropic", "spark_ws"))
]


def classifier(vendor: str = "openai") -> Classifier:
    preset = PRESETS.get(VENDORS.get(vendor, vendor))
    return Classifier("acme", preset.codes if preset else {}, ("the-secret",))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_refusal_becomes_the_right_failure(case):
    failure = classifier(case["provider"]).refused(case["status"], case["headers"], case["body_text"].encode())
    check_refusal(failure, case["expected"])


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"Not Found", errors.ProviderRejected),
        (408, b"", errors.ProviderUnavailable),
        (409, b"", errors.ProviderUnavailable),
        (422, b'{"detail": "no"}', errors.ProviderRejected),
        (302, b"", errors.ProviderRejected),
        (501, b'{"error": {"type": "not_supported_error"}}', errors.ProviderRejected),
        (
            500,
            b'{"error": {"message": "Context size has been exceeded.", "type": "server_error"}}',
            errors.ContextTooLong,
        ),
        (429, b'{"statusCode": 429, "message": "slow down"}', errors.ProviderRateLimited),
        (429, b'{"error": {"message": "tokens per min, reduce the length"}}', errors.ProviderRateLimited),
        (400, b'{"error": "no"}', errors.ProviderRejected),
        (400, b"[1, 2]", errors.ProviderRejected),
    ],
)
def test_the_status_counts_where_no_code_says_more(status, body, kind):
    assert type(classifier().refused(status, {}, body)) is kind


@pytest.mark.parametrize(
    ("status", "header", "kind"),
    [
        (503, "false", errors.ProviderUnavailable),
        (429, "false", errors.ProviderRateLimited),
        (400, "true", errors.ProviderUnavailable),
        (401, "true", errors.ProviderAuth),
    ],
)
def test_the_server_may_overrule_what_can_be_tried_again(status, header, kind):
    failure = classifier().refused(status, {"x-should-retry": header}, b"")
    assert type(failure) is kind
    assert failure.again_here == (header == "true" and kind.retryable)


@pytest.mark.parametrize(("status", "field"), [(401, None), (402, "quota"), (403, "permission"), (434, "permission")])
def test_what_a_key_may_not_have_is_told_apart_from_a_key_that_is_wrong(status, field):
    failure = classifier().refused(status, {}, b"")
    assert (type(failure), failure.field) == (errors.ProviderAuth, field)


def test_a_wait_may_stand_in_the_message():
    failure = classifier().refused(429, {}, b'{"error": {"message": "Please retry after 12 seconds."}}')
    assert failure.retry_after_s == 12


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (VendorError("boom", "500", "InternalServerError"), errors.ProviderUnavailable),
        (VendorError("no", "400"), errors.ProviderRejected),
        (VendorError("no", "999999"), errors.ProviderUnavailable),
        (VendorError("no", "", "invalid_request_error"), errors.ProviderRejected),
        (VendorError("wait", "429"), errors.ProviderRateLimited),
        (VendorError("maximum context length is 5", "400"), errors.ContextTooLong),
        (VendorError("bad words", "content_filter"), errors.ContentFiltered),
        (VendorError("who knows"), errors.ProviderUnavailable),
    ],
)
def test_an_error_inside_an_answer_becomes_the_right_failure(error, kind):
    assert type(classifier().failed(error)) is kind


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"error": {"message": "m", "type": "t", "code": 7}}, VendorError("m", "7", "t")),
        ({"error": {"message": None, "code": None}}, VendorError()),
        ({"error": "plain"}, VendorError("plain")),
        ({"object": "error", "message": "m", "type": "T", "code": 400}, VendorError("m", "400", "T")),
        ({"code": 11202, "message": "m"}, VendorError("m", "11202")),
        ({"code": "x", "message": "m", "choices": []}, VendorError("m", "x")),
        ({"code": 0, "message": "Success"}, None),
        ({"code": "0"}, None),
        ({"code": 0, "choices": [{}]}, None),
        ({"error": None, "choices": []}, None),
        ([], None),
        (None, None),
    ],
)
def test_errors_are_found_in_all_their_shapes(payload, error):
    assert error_in(payload) == error


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b'{"code": 500, "message": "m"}', VendorError("m", "500")),
        (b"out of memory", VendorError("out of memory")),
        (b"{}", VendorError()),
    ],
)
def test_a_field_called_error_may_hold_json_or_text(value, error):
    assert error_field(value) == error


def test_a_detail_tells_what_happened_but_no_secret():
    body = b'{"error": {"message": "key the-secret, sk-proj-a*b, Bearer abc.def!", "code": "bad", "type": "auth"}}'
    failure = classifier().refused(401, {}, body)
    assert failure.detail == "acme: status 401 auth bad key ***, ***, ***"
    assert failure.params == {}


def test_a_detail_is_short():
    assert len(classifier().refused(500, {}, b"<html>" * 1000).detail) == 500


def test_an_empty_secret_hides_nothing():
    assert redacted("open", ("",)) == "open"


def test_secrets_do_not_show_in_the_classifier_itself():
    assert "the-secret" not in repr(classifier())


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "6m0s"}, None),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, 40),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT", "date": "Sun, 22 Nov 2026 10:00:10 GMT"}, 20),
        ({"retry-after": "Sun, 22 Nov 2026 09:00:00 GMT"}, 0),
    ],
)
def test_the_wait_is_read_in_all_its_forms(headers, seconds):
    now = 1_795_341_590.0  # 2026-11-22 09:59:50 UTC
    assert retry_after_s(headers, lambda: now) == seconds

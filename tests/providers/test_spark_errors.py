from __future__ import annotations

import pytest

from scm_trio import errors
from scm_trio.providers.openai_errors import VendorError
from scm_trio.providers.spark_errors import SparkClassifier

from .expected import check_refusal, http_errors

CASES = [case for case in http_errors("spark_http", "spark_ws") if case["expected"]["kind"] != "clock_skew"]
CLASSIFIER = SparkClassifier("spark", secrets=("the-key",), model="x1")
# The documented table.
SERVER_ERROR = (10000, 10001, 10002, 10008, 10009, 10010, 10011, 10012, 10017, 10110, 10222)
BAD_REQUEST = (10003, 10004, 10005, 10163, 10404, 11501, 19999)
RATE_LIMITED = (10006, 10007, 11202, 11203)
CONTENT = (10013, 10014, 10019, 10021, 10022)
AUTH = (10015, 10016, 11200, 11201, 11500)


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (SERVER_ERROR, errors.ProviderUnavailable),
        (BAD_REQUEST, errors.ProviderRejected),
        (RATE_LIMITED, errors.ProviderRateLimited),
        (CONTENT, errors.ContentFiltered),
        (AUTH, errors.ProviderAuth),
        ((10907,), errors.ContextTooLong),
    ],
)
def test_every_code_of_the_table_has_its_failure(codes, kind):
    assert {type(CLASSIFIER.failed(VendorError("?", str(code)))) for code in codes} == {kind}


def test_the_daily_limit_is_a_matter_of_the_account():
    assert CLASSIFIER.failed(VendorError("?", "11201")).field == "quota"


@pytest.mark.parametrize("code", ["999", "1001", "12345", "123456"])
def test_what_trying_a_code_of_no_table_again_costs_nobody_knows_but_others_may_answer(code):
    failure = CLASSIFIER.failed(VendorError("?", code))
    assert (type(failure), failure.elsewhere) == (errors.ProviderRejected, True)


def test_an_application_that_may_not_use_a_model_is_no_wrong_key():
    assert CLASSIFIER.failed(VendorError("?", "10016")).field == "permission"
    assert CLASSIFIER.failed(VendorError("?", "11200")).field is None


def test_what_is_no_code_of_sparks_may_be_tried_again():
    assert type(CLASSIFIER.failed(VendorError("?", "503"))) is errors.ProviderUnavailable
    assert type(CLASSIFIER.failed(VendorError("?"))) is errors.ProviderUnavailable
    assert type(CLASSIFIER.refused(502, {}, b'{"code": 19999}')) is errors.ProviderRejected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_refusal_becomes_the_right_failure(case):
    check_refusal(CLASSIFIER.refused(case["status"], case["headers"], case["body_text"].encode()), case["expected"])


def test_a_wrong_clock_is_named():
    (case,) = [case for case in http_errors("spark_ws") if case["expected"]["kind"] == "clock_skew"]
    failure = CLASSIFIER.refused(case["status"], case["headers"], case["body_text"].encode())
    assert (type(failure), failure.field, failure.retryable) == (errors.ProviderAuth, "clock", False)
    assert failure.detail.startswith("spark: status 403 HMAC signature cannot be verified")
    assert failure.detail.endswith("(is this machine's clock right?)")


def test_no_secret_shows():
    assert CLASSIFIER.failed(VendorError("bad the-key", "11200")).detail == "spark: in the answer 11200 bad ***"

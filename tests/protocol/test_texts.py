"""Sentences exist for everything that can happen, in both languages, with all their values."""

import ast
import re
from collections.abc import Iterator
from inspect import isclass
from pathlib import Path
from string import Formatter

import pytest

import scm_trio
from scm_trio import errors
from scm_trio.errors import BadJson, RequestFailed
from scm_trio.protocol import codec, frames, texts
from scm_trio.protocol.schema import error_codes
from scm_trio.protocol.texts import language, sentence

from .vectors import load, text_of

ALL_TEXTS = {**texts._ERRORS, **texts._NOTICES, **texts.EXPECTED, **texts._DEADLINES, "choices": texts._CHOICES}
FAILURES = [each for each in vars(errors).values() if isclass(each) and issubclass(each, RequestFailed)]

# The values that the code's raisers give; a placeholder outside of these would stay empty.
GIVEN = {
    "BAD_JSON": {"position"},
    "INVALID_MESSAGE": {"field", "expected"},
    "UNKNOWN_TYPE": {"kind"},
    "MESSAGE_TOO_LARGE": {"limit"},
    "RATE_LIMITED": {"seconds"},
    "TOO_MANY_STREAMS": {"limit"},
    "QUOTA_EXCEEDED": {"resets"},
    "PROVIDER_UNKNOWN": {"provider"},
    "MODEL_UNKNOWN": {"model"},
    "TIMEOUT": {"field"},
    "RETRYING": {"provider"},
    "FALLBACK": {"provider"},
    "IMAGES_UNSEEN": {"provider"},
    "EMPTY_ANSWER": {"provider"},
    "FILE_TOO_LARGE": {"limit"},
    "FILE_QUOTA": {"limit"},
    "TOO_MANY_UPLOADS": {"limit"},
    "TOO_MANY_SESSIONS": {"limit"},
}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.__name__)
def test_every_failure_has_a_sentence_of_its_own(failure):
    assert failure.code in texts._ERRORS


def test_there_is_no_sentence_without_its_failure():
    assert set(texts._ERRORS) == set(error_codes())
    assert not set(texts._ERRORS) & set(texts._NOTICES)


@pytest.mark.parametrize("key", [*texts._ERRORS, *texts._NOTICES])
def test_placeholders_are_the_same_in_both_languages_and_known_to_the_raisers(key):
    zh, en = ALL_TEXTS[key]
    assert placeholders(zh) == placeholders(en) == GIVEN.get(key, set())


@pytest.mark.parametrize("key", ALL_TEXTS)
def test_a_chinese_text_is_chinese_and_an_english_one_english(key):
    zh, en = ALL_TEXTS[key]
    assert re.search("[\u4e00-\u9fff]", zh)
    assert en.isascii()
    # Next to a Chinese character stands Chinese punctuation.
    assert not re.search("[\u4e00-\u9fff][,;:!?.()]|[,;:!?()][\u4e00-\u9fff]", zh)
    assert not re.search("[，；：！？。（）] | [，；：！？。（）]", zh)
    for text in (zh, en):
        assert text == text.strip()
        assert "  " not in text


@pytest.mark.parametrize("lang", ["zh", "en"])
@pytest.mark.parametrize("row", load("client-refused"), ids=lambda row: row["name"])
def test_the_sentence_for_a_refused_vector_has_all_its_values(row, lang):
    with pytest.raises(RequestFailed) as caught:
        codec.decode_client(text_of(row))
    template = texts._ERRORS[caught.value.code][lang == "en"]
    shown = {**caught.value.params, "field": caught.value.field}
    assert placeholders(template) <= {name for name, value in shown.items() if value is not None}
    said = frames.error(caught.value, lang).text
    assert said != sentence("INTERNAL", lang)
    expected = caught.value.params.get("expected")
    if expected in texts.EXPECTED:
        assert texts.EXPECTED[expected][lang == "en"] in said


@pytest.mark.parametrize("row", load("client-refused"), ids=lambda row: row["name"])
def test_what_the_codec_expects_is_a_known_word_or_a_list_of_values(row):
    expected = row["error"].get("expected", "missing")
    assert expected in texts.EXPECTED or " | " in expected


def calls() -> Iterator[ast.Call]:
    """Every call in the package of something that comes from ``scm_trio.errors``."""
    for file in sorted(Path(scm_trio.__file__).parent.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "scm_trio.errors"]
        names = {alias.name for node in imports for alias in node.names}
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
                yield node


def test_whoever_raises_a_failure_gives_the_values_of_its_sentence():
    codes = {failure.__name__: failure.code for failure in FAILURES}
    for call in calls():
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if call.func.id not in codes or None in given:
            continue
        notice = given.get("notice")
        key = notice.value if isinstance(notice, ast.Constant) else codes[call.func.id]
        names = set(given) | ({"seconds"} if "retry_after_s" in given else set())
        assert placeholders(ALL_TEXTS[key][0]) - names <= ({"field"} if key == "TIMEOUT" else set()), ast.unparse(call)


def test_every_disconnect_has_a_sentence():
    reasons = [call.args[1] for call in calls() if call.func.id == "Disconnect" and len(call.args) == 2]
    words = {
        reason.value if isinstance(reason, ast.Constant) else getattr(errors, reason.value.id).code
        for reason in reasons
        if isinstance(reason, ast.Constant) or isinstance(reason.value, ast.Name)
    }
    assert words
    for word in words:
        assert word in ALL_TEXTS
        # The limit is known to whoever disconnects for it.
        assert placeholders(ALL_TEXTS[word][0]) <= {"limit"}


def test_the_sentences_read_well():
    assert sentence("BAD_JSON", "zh", position=7) == "消息不是有效的 JSON 对象（位置 7）"
    assert sentence("INVALID_MESSAGE", "en", field="data.message", expected="missing") == (
        "Field data.message is invalid: it is missing"
    )
    assert sentence("INVALID_MESSAGE", "zh", field="data.status", expected="online | away") == (
        "字段 data.status 无效：应为以下之一：online | away"
    )
    assert sentence("INVALID_MESSAGE", "en", field="data.status", expected="online | away") == (
        "Field data.status is invalid: one of online | away is expected"
    )
    assert sentence("TIMEOUT", "zh", field="first_token") == "等待超时：首个词元"
    assert sentence("TIMEOUT", "en", field="total") == "It took too long: the whole answer"
    assert sentence("TIMEOUT", "en") == "It took too long: the request"


def test_a_notice_can_be_asked_for_by_its_own_name():
    assert sentence("WELCOME", "en") == "Connected. Ask away."


def test_what_has_no_sentence_gets_that_of_internal():
    assert sentence("NO_SUCH_CODE", "en") == "Something went wrong on the server"
    assert sentence("NO_SUCH_CODE", "zh", notice="NO_SUCH_NOTICE") == "服务器内部错误"


def test_a_missing_value_makes_a_poor_sentence_and_no_second_failure():
    assert sentence("RATE_LIMITED", "en", seconds=None) == "Too many messages; try again in - s"
    assert sentence("INVALID_MESSAGE", "en", field="a", expected=None) == "Field a is invalid: -"
    assert sentence("TIMEOUT", "en", field="elsewhere") == "It took too long: elsewhere"
    assert sentence("TIMEOUT", "en", field=["connect"]) == "It took too long: ['connect']"


def test_values_are_not_templates():
    assert sentence("UNKNOWN_TYPE", "en", kind="{limit.__class__}") == "Unknown message type: {limit.__class__}"


@pytest.mark.parametrize(
    ("asked", "lang"),
    [
        ("en", "en"),
        ("en-US", "en"),
        ("EN_gb", "en"),
        ("zh", "zh"),
        ("zh-CN", "zh"),
        ("fr", "zh"),
        ("", "zh"),
        (None, "zh"),
    ],
)
def test_english_is_for_those_who_ask(asked, lang):
    assert language(asked) == lang


def test_a_failures_field_is_part_of_its_sentence():
    failure = BadJson("at 3", position=3)
    assert frames.error(failure, "en").text == "The message is not a valid JSON object (at 3)"

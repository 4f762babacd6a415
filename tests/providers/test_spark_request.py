from __future__ import annotations

import json

import pytest

from scm_trio.model import Prompt, Turn
from scm_trio.providers.spark_request import request_frame

SYSTEM, USER, ANSWER = Turn("system", "S"), Turn("user", "U"), Turn("assistant", "A")


def asked(domain: str = "4.0Ultra", turns: tuple[Turn, ...] = (USER,), **options: object) -> dict:
    return json.loads(request_frame("app", domain, Prompt("m", turns, **options)))


def texts(domain: str, *turns: Turn) -> list[tuple[str, str]]:
    said = asked(domain, turns)["payload"]["message"]["text"]
    assert all(set(text) == {"role", "content"} for text in said)
    return [(text["role"], text["content"]) for text in said]


def test_a_question_says_what_it_must_and_nothing_else():
    assert asked("max-32k") == {
        "header": {"app_id": "app"},
        "parameter": {"chat": {"domain": "max-32k"}},
        "payload": {"message": {"text": [{"role": "user", "content": "U"}]}},
    }


@pytest.mark.parametrize(
    ("domain", "given", "sent"),
    [
        ("4.0Ultra", 0.5, 0.5),
        ("4.0Ultra", 0.0, 0.01),
        ("4.0Ultra", 1.7, 1.0),
        ("spark-x", 1.7, 1.7),
        ("x1", 2.5, 2.0),
        ("a-tuned-one", 2.0, 1.0),
    ],
)
def test_a_temperature_stays_within_what_the_model_takes(domain, given, sent):
    assert asked(domain, temperature=given)["parameter"]["chat"]["temperature"] == sent


def test_the_limit_of_the_answer_is_passed_on():
    assert asked(max_tokens=9)["parameter"]["chat"]["max_tokens"] == 9


@pytest.mark.parametrize("domain", ["generalv3", "generalv3.5", "4.0Ultra", "x1", "spark-x"])
def test_models_that_would_search_the_web_are_told_not_to(domain):
    (tool,) = asked(domain)["parameter"]["chat"]["tools"]
    assert tool == {"type": "web_search", "web_search": {"enable": False}}


@pytest.mark.parametrize("domain", ["generalv3.5", "4.0Ultra", "x1", "a-tuned-one"])
def test_instructions_come_first_and_in_one(domain):
    assert texts(domain, SYSTEM, USER, Turn("system", "T")) == [("system", "S\n\nT"), ("user", "U")]


@pytest.mark.parametrize("domain", ["lite", "general", "generalv2", "generalv3", "pro-128k", "kjwx"])
def test_models_without_that_role_read_instructions_in_the_first_question(domain):
    assert texts(domain, SYSTEM, USER, ANSWER, USER) == [("user", "S\n\nU"), ("assistant", "A"), ("user", "U")]


def test_roles_alternate_and_the_user_begins():
    turns = (SYSTEM, ANSWER, Turn("user", " "), USER, USER, ANSWER, Turn("assistant", ""), ANSWER, USER)
    assert texts("4.0Ultra", *turns) == [("system", "S"), ("user", "U\n\nU"), ("assistant", "A\n\nA"), ("user", "U")]
    assert texts("lite", ANSWER, USER) == [("user", "U")]

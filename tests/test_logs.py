import json
import logging

import pytest
import structlog

from scm_trio import logs
from scm_trio.config import Log


@pytest.fixture(autouse=True)
def _as_before():
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    structlog.configure(**before)
    root.handlers, root.level = handlers, level


def test_json_lines_hold_the_event_its_level_time_and_values(capsys):
    logs.configure(Log(format="json", level="info"))
    log = structlog.get_logger("here")
    log.debug("unheard")
    log.info("run ended", run_id="r1")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["run_id"]) == ("run ended", "info", "r1")
    assert event["timestamp"].endswith("Z")


def test_console_lines_are_readable_and_without_colours_where_nobody_sees_them(capsys):
    logs.configure(Log(format="console", level="debug"))
    structlog.get_logger("here").debug("run ended", run_id="r1")
    text = capsys.readouterr().err
    assert "run ended" in text
    assert "run_id=r1" in text
    assert "\x1b[" not in text


def fail(secret):
    raise ValueError(f"sk-{secret}")


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_told_by_its_type_and_place_and_never_by_its_text(capsys, form):
    logs.configure(Log(format=form, level="info"))
    log = structlog.get_logger("here")
    try:
        fail("quoted")
    except ValueError as exc:
        log.exception("provider broke")
        log.warning("connection broke", exc_info=exc)
    text = capsys.readouterr().err
    assert text.count("ValueError") == 2
    assert text.count("test_logs.py") >= 2
    assert "quoted" not in text


def test_a_group_is_told_with_what_is_in_it(capsys):
    logs.configure(Log(format="json"))
    group = ExceptionGroup("g", [KeyError("k"), ExceptionGroup("inner", [OSError("o")])])
    structlog.get_logger("here").warning("connection broke", exc_info=group)
    lines = [line.strip() for line in json.loads(capsys.readouterr().err)["traceback"]]
    assert lines == ["ExceptionGroup", "KeyError", "ExceptionGroup", "OSError"]


def test_exc_info_without_an_exception_says_nothing(capsys):
    logs.configure(Log(format="json"))
    structlog.get_logger("here").warning("calm", exc_info=True)
    assert "traceback" not in json.loads(capsys.readouterr().err)


def test_a_malformed_form_is_not_quoted(capsys):
    logs.configure(Log(format="json"))
    logging.getLogger("python_multipart.multipart").warning("Found invalid character %r in header", "x")
    logging.getLogger("some.library").warning("heard")
    assert "invalid character" not in capsys.readouterr().err

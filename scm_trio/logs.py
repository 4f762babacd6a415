"""Logging: structlog on standard error, as console lines or JSON. No tokens, no keys, no chat text."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import structlog

from scm_trio.config import Log

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure(settings: Log) -> None:
    """Set structlog up for the whole process."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            without_values,
            _renderer(settings),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries may log what passes through them; only their warnings are wanted.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s")
    # It warns of every malformed form, in the words of whoever sent it.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)


def _renderer(settings: Log) -> Any:
    if settings.format == "json":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())


def without_values(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace an exception by its types and places: its text might quote a message or a key."""
    given = event.pop("exc_info", None)
    if given:
        exc = given if isinstance(given, BaseException) else sys.exc_info()[1]
        if exc is not None:
            event["traceback"] = _describe(exc)
    return event


def _describe(exc: BaseException) -> list[str]:
    frames = traceback.extract_tb(exc.__traceback__)[-8:]
    places = (f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames)
    lines = [type(exc).__name__, *places]
    if isinstance(exc, BaseExceptionGroup):
        for inner in exc.exceptions[:4]:
            lines += [f"  {line}" for line in _describe(inner)]
    return lines

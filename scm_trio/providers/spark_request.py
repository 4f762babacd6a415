"""What Spark is asked over WebSocket: one frame. No clock, no network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from scm_trio.model import Prompt, Turn
from scm_trio.providers.spark_models import NO_SEARCH, spark_model

MIN_TEMPERATURE = 0.01
"""Zero is refused."""
_GAP = "\n\n"


def request_frame(app_id: str, domain: str, prompt: Prompt) -> str:
    """Return the frame that asks the model called ``domain``; what the prompt leaves open is left out."""
    model = spark_model(domain)
    chat: dict[str, Any] = {"domain": domain}
    if prompt.temperature is not None:
        chat["temperature"] = min(max(prompt.temperature, MIN_TEMPERATURE), model.max_temperature)
    if prompt.max_tokens is not None:
        chat["max_tokens"] = prompt.max_tokens
    if model.can_search:
        chat["tools"] = NO_SEARCH
    frame = {
        "header": {"app_id": app_id},
        "parameter": {"chat": chat},
        "payload": {"message": {"text": _texts(prompt.turns, takes_system=model.takes_system)}},
    }
    return orjson.dumps(frame).decode()


def _texts(turns: Iterable[Turn], *, takes_system: bool) -> list[dict[str, str]]:
    """The conversation as the models take it: instructions first, no empty text, roles in turn, the user first."""
    spoken = [turn for turn in turns if turn.content.strip()]
    texts: list[dict[str, str]] = []
    if system := _GAP.join(turn.content for turn in spoken if turn.role == "system"):
        # A model that does not know the role is told with the first question.
        texts.append({"role": "system" if takes_system else "user", "content": system})
    for turn in spoken:
        last = texts[-1]["role"] if texts else "system"
        if turn.role == "system":
            continue
        if turn.role == last:
            texts[-1]["content"] += _GAP + turn.content
        elif turn.role == "user" or last == "user":
            texts.append({"role": turn.role, "content": turn.content})
    return texts

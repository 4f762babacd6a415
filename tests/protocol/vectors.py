"""The golden vectors of tests/vectors, ready to be used."""

import json
from pathlib import Path
from typing import Any

from scm_trio.protocol import codec

FOLDER = Path(__file__).resolve().parents[1] / "vectors"


def load(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def text_of(row: dict[str, Any]) -> str:
    """The wire text of a vector; a list's parts are texts, or a text and how often it stands there."""
    text = row["text"]
    if isinstance(text, str):
        return text
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in text)


def as_message(received: codec.Received) -> dict[str, Any]:
    """A decoded message in the form that the vectors have."""
    envelope = {
        "type": received.kind,
        "sessionId": received.session_id,
        "userId": received.user_id,
        "requestId": received.request_id,
        "timestamp": received.timestamp,
    }
    return {key: value for key, value in envelope.items() if value is not None} | {"data": codec.plain(received.data)}

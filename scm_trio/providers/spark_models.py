"""The models that Spark names itself: where they are asked, and what they take. Any other name is passed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

HTTP_URL = "https://spark-api-open.xf-yun.com"
_WEBSOCKET_URL = "wss://spark-api.xf-yun.com"
_SCIENCE_URL = "wss://spark-openapi-n.cn-huabei-1.xf-yun.com"

NO_SEARCH: list[dict[str, Any]] = [{"type": "web_search", "web_search": {"enable": False}}]
"""Models that can search the web do so unless told not to: an answer's cost and delay would be anybody's guess."""


@frozen
class SparkModel:
    """One model.

    Attributes:
        websocket_url: where it is asked over WebSocket; None: only the configuration can know.
        http_version: what its path over HTTP begins with.
        takes_system: whether it knows the role ``system``.
        can_search: whether it searches the web by itself.
        max_temperature: over WebSocket.
    """

    websocket_url: str | None = None
    http_version: str = "/v1"
    takes_system: bool = True
    can_search: bool = False
    max_temperature: float = 1.0


def _simple(path: str, url: str = _WEBSOCKET_URL, *, can_search: bool = False) -> SparkModel:
    return SparkModel(url + path, takes_system=False, can_search=can_search)


_THINKER = SparkModel(f"{_WEBSOCKET_URL}/v1/x1", http_version="/v2", can_search=True, max_temperature=2.0)
_MODELS: Mapping[str, SparkModel] = {
    "lite": _simple("/v1.1/chat"),
    "general": _simple("/v1.1/chat"),
    "generalv2": _simple("/v2.1/chat"),
    "generalv3": _simple("/v3.1/chat", can_search=True),
    "pro-128k": _simple("/chat/pro-128k"),
    "generalv3.5": SparkModel(f"{_WEBSOCKET_URL}/v3.5/chat", can_search=True),
    "max-32k": SparkModel(f"{_WEBSOCKET_URL}/chat/max-32k"),
    "4.0Ultra": SparkModel(f"{_WEBSOCKET_URL}/v4.0/chat", can_search=True),
    "x1": _THINKER,
    "spark-x": _THINKER,
    "kjwx": _simple("/v1.1/chat_kjwx", _SCIENCE_URL),
}
_OTHER = SparkModel()


def spark_model(name: str) -> SparkModel:
    """Return what is known of the model called so, also where that is nothing."""
    return _MODELS.get(name, _OTHER)

"""The models that a vendor lists, as OpenAI, Anthropic and those like them tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen

from scm_trio.errors import NotFound
from scm_trio.providers import tolerant_json
from scm_trio.providers.openai_errors import Classifier
from scm_trio.providers.upstream import Upstream

MAX_MODELS = 1000
MAX_PAGES = 10
MAX_LIST_BYTES = 4_194_304
"""Of one page: aggregators describe hundreds of models at length."""
MAX_NAME_CHARS = 128


@frozen
class Page:
    """``after`` names the last model of a page that has a next one."""

    models: tuple[str, ...]
    after: str | None = None


async def fetch_models(
    upstream: Upstream, path: str, headers: Mapping[str, str], classifier: Classifier
) -> tuple[str, ...]:
    """Read a vendor's list, page by page up to its limits; names are told once, in the vendor's order.

    Args:
        upstream: the vendor.
        path: of its list, below the base URL.
        headers: which the vendor wants to see, its key among them.
        classifier: turns refusals into failures.

    Raises:
        NotFound: it has no such list.
        RequestFailed: it refused, broke off, or answered with something else.
    """
    found: dict[str, None] = {}
    after: str | None = None
    for _ in range(MAX_PAGES):
        page = await _fetch_page(upstream, _next(path, after), headers, classifier)
        found.update(dict.fromkeys(page.models))
        if page.after in {None, after} or len(found) >= MAX_MODELS:
            break
        after = page.after
    return tuple(found)[:MAX_MODELS]


async def _fetch_page(upstream: Upstream, path: str, headers: Mapping[str, str], classifier: Classifier) -> Page:
    async with upstream.get(path, headers) as response:
        if response.status in {404, 405}:
            raise NotFound(f"{upstream.name}: it has no list of models")
        if not 200 <= response.status < 300:
            raise classifier.refused(response.status, response.headers, await response.read_error())
        body = await response.read(MAX_LIST_BYTES)
    page = parse(body)
    if page is None:
        raise classifier.unavailable("no list of models")
    return page


def parse(body: bytes) -> Page | None:
    """Read one page; None where it is none. A list that is ``null`` is empty, as Ollama says it."""
    try:
        payload = tolerant_json.loads(body)
    except ValueError:
        return None
    if not isinstance(payload, dict) or not isinstance(payload.get("data", 0), list | None):
        return None
    entries = payload["data"] or []
    names = (_name(entry.get("id")) for entry in entries if isinstance(entry, dict))
    after = _name(payload.get("last_id")) if payload.get("has_more") is True else None
    return Page(tuple(name for name in names if name is not None), after)


def _name(value: Any) -> str | None:
    """The value if it can be a model's name."""
    return value if isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable() else None


def _next(path: str, after: str | None) -> str:
    if after is None:
        return path
    return f"{path}{'&' if '?' in path else '?'}after_id={quote(after, safe='')}"

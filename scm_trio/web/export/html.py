"""The export for people: one HTML page that runs nothing and fetches nothing, whatever the messages hold.

Three walls, each of which would do: markdown-it takes no HTML, nh3 lets only harmless tags through, and the page's own
policy forbids everything but its style sheet.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

import nh3
from attrs import define, field
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from scm_trio.protocol.messages import StoredMessage
from scm_trio.web.export.renderer import Numbers, Occasion, moment, say, size, speaker

MAX_MARKDOWN_CHARS = 100_000
"""A longer text is shown as it was written,"""
MAX_MARKUP_CHARS = 10_000
"""and so is one with more of these characters, each of which the Markdown parser looks into:"""
_MARKUP = "[]!*_`~<>\n"

_STYLE = files(__package__).joinpath("export.css").read_text(encoding="utf-8")
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"

_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code"),
    *("em", "strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
_SCHEMES = {"http", "https", "mailto"}


def _without_relative(_: str, attribute: str, value: str) -> str | None:
    """A relative address would lead from wherever the page is saved to who knows what."""
    scheme = value.partition(":")[0].lower()
    return value if attribute != "href" or scheme in _SCHEMES else None


def _markdown() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.add_render_rule("image", _image_as_link)
    return parser


def _image_as_link(
    renderer: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any
) -> str:
    """A picture would be fetched from wherever the answer says; a link waits to be followed."""
    image = tokens[index]
    address = str(image.attrs.get("src", ""))
    text = renderer.renderInlineAsText(image.children, options, env) if image.children else ""  # type: ignore[attr-defined]
    return f'<a href="{escape(address)}">{escape(text or address)}</a>'


@define
class Html:
    occasion: Occasion
    media_type: str = field(default="text/html; charset=utf-8", init=False)
    ending: str = field(default="html", init=False)
    _numbers: Numbers = field(factory=Numbers, init=False)
    _markdown: MarkdownIt = field(factory=_markdown, init=False)

    def head(self) -> str:
        session, lang = self.occasion.session, self.occasion.lang
        title = escape(self.occasion.title)
        about = f"{escape(session.session_id)} · {say('exported', lang, time=moment(self.occasion.exported_at))}"
        prompt = _details(say("system", lang), session.system_prompt) if session.system_prompt else ""
        return (
            f'<!DOCTYPE html>\n<html lang="{"en" if lang == "en" else "zh-CN"}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="referrer" content="no-referrer">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f"<header>\n<h1>{title}</h1>\n<p>{about}</p>\n{prompt}</header>\n<main>\n"
        )

    def page(self, messages: Sequence[StoredMessage]) -> str:
        return "".join(map(self._message, messages))

    def tail(self) -> str:
        return "</main>\n</body>\n</html>\n"

    def _message(self, message: StoredMessage) -> str:
        lang = self.occasion.lang
        number, follows = self._numbers.next(message)
        heading = f'<a href="#m{number}">{number}</a> {escape(speaker(message, lang))}'
        if follows is not None:
            heading += f' <a href="#m{follows}">{say("reply", lang, number=follows)}</a>'
        reasoning = _details(say("reasoning", lang), message.reasoning) if message.reasoning else ""
        return (
            f'<article id="m{number}" class="{message.role}">\n'
            f'<h2>{heading} <time datetime="{message.created_at}">{moment(message.created_at)}</time></h2>\n'
            f"{reasoning}{self._text(message)}{_attachments(message, self.occasion)}</article>\n"
        )

    def _text(self, message: StoredMessage) -> str:
        if message.role == "user" or not _is_cheap(message.content):
            return _plain(message.content)
        rendered = nh3.clean(
            self._markdown.render(message.content),
            tags=_TAGS,
            attributes=_ATTRIBUTES,
            attribute_filter=_without_relative,
            url_schemes=_SCHEMES,
            link_rel="noopener noreferrer nofollow",
        )
        return f'<div class="text">{rendered}</div>\n'


def _is_cheap(text: str) -> bool:
    return len(text) <= MAX_MARKDOWN_CHARS and sum(map(text.count, _MARKUP)) <= MAX_MARKUP_CHARS


def _plain(text: str) -> str:
    return f'<div class="plain">{escape(text)}</div>\n'


def _details(label: str, text: str) -> str:
    return f"<details><summary>{label}</summary>{_plain(text)}</details>\n"


def _attachments(message: StoredMessage, occasion: Occasion) -> str:
    if not message.attachments:
        return ""
    items = "".join(
        f"<li>{escape(each.name)} ({escape(each.media_type)}, {size(each.size)})</li>" for each in message.attachments
    )
    return f'<ul class="attachments" title="{say("attachments", occasion.lang)}">{items}</ul>\n'

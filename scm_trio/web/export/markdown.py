"""The export for editors: every text as it was written, between headings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import define, field

from scm_trio.protocol.messages import StoredMessage
from scm_trio.web.export.renderer import Numbers, Occasion, moment, say, size, speaker

_SPECIAL = re.compile(r"([\\`*_\[\]<>#|~])")


@define
class Markdown:
    occasion: Occasion
    media_type: str = field(default="text/markdown; charset=utf-8", init=False)
    ending: str = field(default="md", init=False)
    _numbers: Numbers = field(factory=Numbers, init=False)

    def head(self) -> str:
        session, lang = self.occasion.session, self.occasion.lang
        parts = [
            f"# {_line(self.occasion.title)}",
            f"{_line(session.session_id)} · {say('exported', lang, time=moment(self.occasion.exported_at))}",
        ]
        if session.system_prompt:
            parts.append(_quoted(say("system", lang), session.system_prompt))
        return "\n\n".join(parts) + "\n"

    def page(self, messages: Sequence[StoredMessage]) -> str:
        return "".join(map(self._message, messages))

    def tail(self) -> str:
        return ""

    def _message(self, message: StoredMessage) -> str:
        lang = self.occasion.lang
        number, follows = self._numbers.next(message)
        heading = f"## {number}. {_line(speaker(message, lang))} · {moment(message.created_at)}"
        if follows is not None:
            heading += f" · {say('reply', lang, number=follows)}"
        parts = [heading]
        if message.reasoning:
            parts.append(_quoted(say("reasoning", lang), message.reasoning))
        parts.append(message.content.strip("\n"))
        if message.attachments:
            names = [f"- {_line(each.name)} ({each.media_type}, {size(each.size)})" for each in message.attachments]
            parts.append("\n".join([f"{say('attachments', lang)}:", "", *names]))
        return "\n" + "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    """A name as one line that says nothing to a Markdown reader."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _quoted(label: str, text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in (f"**{label}**", "", *text.splitlines()))

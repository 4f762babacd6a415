"""The export for programs: ``messages.Conversation``, written while its messages come."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from attrs import define, field

from scm_trio.protocol.codec import plain
from scm_trio.protocol.messages import StoredMessage
from scm_trio.web.export.renderer import Occasion


@define
class Json:
    occasion: Occasion
    media_type: str = field(default="application/json", init=False)
    ending: str = field(default="json", init=False)
    _is_first: bool = field(default=True, init=False)

    def head(self) -> str:
        known = {"session": plain(self.occasion.session), "exportedAt": self.occasion.exported_at}
        return orjson.dumps(known).decode()[:-1] + ',"messages":['

    def page(self, messages: Sequence[StoredMessage]) -> str:
        text = ""
        for message in messages:
            text += ("\n" if self._is_first else ",\n") + orjson.dumps(plain(message)).decode()
            self._is_first = False
        return text

    def tail(self) -> str:
        return "]}\n"

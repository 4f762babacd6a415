"""Tool calls, put together from the fragments in which vendors stream them. No clock, no network."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import define, field

from scm_trio.model import ToolCall


@define
class _Slot:
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(factory=list)


class ToolCalls:
    """The calls of one answer. Fragments name their call by its index; id and name come only once.

    Args:
        without_arguments: the arguments of a call none of whose fragments had any.
    """

    def __init__(self, without_arguments: str = "") -> None:
        self.slots: list[_Slot] = []
        self._by_index: dict[object, _Slot] = {}
        self._without_arguments = without_arguments

    def add(self, fragments: Any) -> None:
        """Take fragments in OpenAI's shape, ``{index, id, function: {name, arguments}}``, any part of which may lack."""
        if isinstance(fragments, dict):  # Spark: a single one without a list
            fragments = [fragments]
        if not isinstance(fragments, list):
            return
        for position, fragment in enumerate(fragments):
            if isinstance(fragment, dict):
                self._add(fragment, position)

    def whole(self) -> list[ToolCall]:
        """Return the calls, in the order of their first fragments."""
        return [
            ToolCall(slot.call_id or f"call_{position}", slot.name, self._arguments(slot))
            for position, slot in enumerate(self.slots)
        ]

    def _arguments(self, slot: _Slot) -> str:
        return "".join(slot.arguments).replace("\0", "") or self._without_arguments

    def _add(self, fragment: dict[str, Any], position: int) -> None:
        index = fragment.get("index")
        key = index if isinstance(index, int) else position
        call_id = str(fragment.get("id") or "")
        slot = self._by_index.get(key)
        # A new id is a new call, also where every call has the index 0 or none has one.
        if slot is None or (call_id and slot.call_id and call_id != slot.call_id):
            slot = self._by_index[key] = _Slot()
            self.slots.append(slot)
        slot.call_id = slot.call_id or call_id
        function = fragment.get("function")
        if isinstance(function, dict):
            slot.name = slot.name or str(function.get("name") or "")
            if arguments := function.get("arguments"):
                slot.arguments.append(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())

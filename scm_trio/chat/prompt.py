"""What the model is told: the branch of the conversation, trimmed to the model's context. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attrs import evolve, field, frozen

from scm_trio.errors import ContextTooLong
from scm_trio.model import FinishReason, Image, Message, Prompt, Role, Turn

TURN_OVERHEAD_TOKENS = 4
"""Role marks and separators around each turn."""
IMAGE_TOKENS = 1600
"""An image, whatever its size: vendors scale large ones down until they count about so many, and less for small ones.
Trimming too much history costs little, a prompt beyond the context costs the answer."""
ANSWER_SHARE = 4
"""An answer without a limit of its own gets one part in this many of the context."""
DOCUMENT_SHARE = 2
"""Documents in the history get one part in this many of what the history may have, the newest ones first."""
LEAST_QUOTE_TOKENS = 64
"""Where a document has less room than this, it is left out."""

_GAP = "\n\n"
_FENCE = re.compile(r"`{3,}")
_GOES_ON = "\n[The file goes on; the rest is left out here.]"


@frozen
class Document:
    """A text that goes along with what is said, to be quoted as far as there is room for it."""

    name: str = field(repr=False)
    media_type: str
    text: str = field(repr=False)
    is_whole: bool = True
    """False: the file goes on behind the text."""

    def quote(self, room_tokens: int | None) -> str:
        """The document between fences, under its name, in so many tokens; None: there is room for all of it."""
        fence = "`" * max([3, *(len(found) + 1 for found in _FENCE.findall(self.text))])
        head, tail = f'Attached file "{self.name}" ({self.media_type}):\n{fence}\n', f"\n{fence}"
        text, is_whole = self.text, self.is_whole
        if room_tokens is not None:
            room = room_tokens - estimate_tokens(head + tail + _GOES_ON + _GAP)
            if estimate_tokens(text) > room:
                if room < LEAST_QUOTE_TOKENS:
                    return f'[Attached file: "{self.name}". It is left out here.]'
                text, is_whole = _beginning(text, room), False
        return head + text + tail + ("" if is_whole else _GOES_ON)


@frozen
class Said:
    """What somebody said, and what goes along with it: ``notes`` are lines about attachments that are not quoted."""

    role: Role
    text: str = field(repr=False)
    documents: tuple[Document, ...] = ()
    notes: tuple[str, ...] = field(default=(), repr=False)
    images: tuple[Image, ...] = ()

    def turn(self, room_tokens: int | None) -> Turn:
        """The turn of a prompt; its documents share the room that the rest of it leaves (None: no limit)."""
        quotes: list[str] = []
        room = None if room_tokens is None or not self.documents else room_tokens - self.least_tokens
        for left, document in zip(range(len(self.documents), 0, -1), self.documents, strict=True):
            quotes.append(document.quote(None if room is None else room // left))
            if room is not None:
                room -= estimate_tokens(quotes[-1])
        return Turn(self.role, self._put(quotes), self.images)

    @property
    def least_tokens(self) -> int:
        """What the turn costs without its documents."""
        return _cost(Turn(self.role, self._put(()), self.images))

    def _put(self, quotes: Sequence[str]) -> str:
        return _GAP.join([*quotes, *self.notes, self.text])


def estimate_tokens(text: str) -> int:
    """A rough count without a tokenizer: four ASCII characters a token, one other character a token.

    On the safe side for Chinese, Japanese and Korean; used for trimming and where a provider tells no usage.
    """
    narrow = len(text.encode("ascii", "ignore"))
    return len(text) - narrow + -(-narrow // 4)


def estimate_turns(turns: Iterable[Turn]) -> int:
    """Tokens of a whole prompt, the marks around its turns included."""
    return sum(map(_cost, turns))


def without_refused(history: Iterable[Message]) -> list[Message]:
    """History without what a vendor's filter refused, questions with their answers.

    Told again, it would have every further question refused (Azure judges the whole prompt), and Anthropic wants a refused
    turn taken out before the conversation goes on.
    """
    told = list(history)
    filtered = [each for each in told if each.finish_reason == FinishReason.CONTENT_FILTER.value]
    gone = {each.message_id for each in filtered} | {each.parent_id for each in filtered}
    return [each for each in told if each.message_id not in gone]


def build_turns(
    system: str | None,
    history: Sequence[Said],
    question: Said,
    *,
    context_tokens: int | None,
    max_tokens: int | None,
) -> tuple[Turn, ...]:
    """System prompt, as much of the newest history as fits, and the question.

    History is dropped from its oldest end, and never so that it would begin with an answer. Documents are cut to fit.

    Raises:
        ContextTooLong: not even the question fits.
    """
    head = (Turn("system", system),) if system else ()
    past = [said for said in history if said.text]
    if context_tokens is None:
        turns, tail = [said.turn(None) for said in past], question.turn(None)
    else:
        room = context_tokens - _answer_room(max_tokens, context_tokens) - estimate_turns(head)
        tail = question.turn(room)
        turns = _newest_that_fit(past, room - _cost(tail), context_tokens)
    while turns and turns[0].role == "assistant":
        turns = turns[1:]
    return (*head, *turns, tail)


def fitted(prompt: Prompt, context_tokens: int) -> Prompt | None:
    """The prompt with no more tokens for its answer than the context has left; None: that is too little."""
    prompt_tokens = estimate_turns(prompt.turns)
    if prompt_tokens + _answer_room(prompt.max_tokens, context_tokens) > context_tokens:
        return None
    return evolve(prompt, max_tokens=answer_limit(prompt.max_tokens, prompt_tokens, context_tokens))


def answer_limit(max_tokens: int | None, prompt_tokens: int, context_tokens: int | None) -> int | None:
    """How many tokens to ask for: many servers refuse a request whose prompt and answer would pass the context together."""
    if max_tokens is None or context_tokens is None:
        return max_tokens
    return min(max_tokens, context_tokens - prompt_tokens)


def _answer_room(max_tokens: int | None, context_tokens: int) -> int:
    return min(max_tokens or context_tokens // ANSWER_SHARE, context_tokens // 2)


def _newest_that_fit(past: Sequence[Said], room: int, context_tokens: int) -> list[Turn]:
    if room < 0:
        raise ContextTooLong(f"the question alone passes {context_tokens} tokens")
    for_documents = room // DOCUMENT_SHARE
    kept: list[Turn] = []
    for said in reversed(past):
        least = said.least_tokens if said.documents else 0
        turn = said.turn(min(room, least + for_documents))
        cost = _cost(turn)
        room -= cost
        if room < 0:
            break
        if said.documents:
            for_documents -= min(for_documents, cost - least)
        kept.append(turn)
    return kept[::-1]


def _beginning(text: str, tokens: int) -> str:
    """As much of a text as makes so many tokens; a little less where its beginning is denser than the rest."""
    text = text[: 4 * tokens]
    while (found := estimate_tokens(text)) > tokens:
        text = text[: len(text) * tokens // found]
    return text


def _cost(turn: Turn) -> int:
    return estimate_tokens(turn.content) + IMAGE_TOKENS * len(turn.images) + TURN_OVERHEAD_TOKENS

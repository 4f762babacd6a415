"""A session without a title gets one after an answer: by the model, or else the first words of the question."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from scm_trio.chat.aside import Aside
from scm_trio.chat.asides import Asides
from scm_trio.chat.run import Run
from scm_trio.chat.title_rules import is_enough, title_from, title_of, title_turns
from scm_trio.errors import NotFound, RequestFailed, ShuttingDown, StoreError
from scm_trio.model import FinishReason, Message
from scm_trio.store.database import Database
from scm_trio.store.messages import branch

log = structlog.get_logger(__name__)

MAX_TOKENS = 256
"""Enough for a model that thinks a little first."""

GiveTitle = Callable[[Message, str], Awaitable[None]]
"""Gives the session of a question a title that was made from it, if it has none; raises ``StoreError``."""


class Titles:
    """The titles that this server makes.

    Args:
        database: its writer must be running.
        asides: asks the model.
        give: gives a session a title.
        nursery: the runs nursery.
        enabled: whether titles are made at all.
    """

    def __init__(
        self, database: Database, asides: Asides, give: GiveTitle, nursery: trio.Nursery, *, enabled: bool = True
    ) -> None:
        self._enabled = enabled
        self._database = database
        self._asides = asides
        self._give_title = give
        self._nursery = nursery
        self._at_work: set[str] = set()

    def concluded(self, run: Run) -> None:
        """A run has ended. Does not wait."""
        session, said = run.session, run.said
        if not self._enabled or session is None or session.title is not None or said is None or not said.content:
            return
        if said.finish_reason not in _COMPLETE or session.global_id in self._at_work:
            return
        self._at_work.add(session.global_id)
        self._nursery.start_soon(self._work, said)

    async def _work(self, answer: Message) -> None:
        try:
            await self._give(answer)
        except StoreError as exc:
            log.warning("title not given", message_id=answer.message_id, error=str(exc))
        except Exception:
            # The barrier of a title: a bug of ours costs no more than that.
            log.exception("title broke", message_id=answer.message_id)
        finally:
            self._at_work.discard(answer.session_id)

    async def _give(self, answer: Message) -> None:
        said = await self._database.read(branch, answer.message_id, 2)
        if not said or said[0].role != "user":
            return
        question, aside = said[0], _aside(answer, said)
        try:
            text = await self._asides.ask(aside) if self._asides.takes(aside) else ""
        except (ShuttingDown, NotFound):
            return  # its next answer may bring it a title, if there is one
        except RequestFailed as exc:
            log.info("title not made", message_id=answer.message_id, error=exc.code)
            text = ""
        title = title_from(text, question.content) or title_of(question.content)
        if title is not None:
            await self._give_title(question, title)


_COMPLETE = {FinishReason.COMPLETED.value, FinishReason.LENGTH.value}


def _aside(answer: Message, said: list[Message]) -> Aside:
    return Aside(
        kind="title",
        user_id=answer.user_id,
        session_id=answer.session_id,
        answer_id=answer.message_id,
        provider=answer.provider,
        model=answer.model,
        turns=title_turns(said),
        max_tokens=MAX_TOKENS,
        is_enough=is_enough,
    )

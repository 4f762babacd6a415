"""What the model does beside answering: titles and suggestions, and what they have to hear of."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import trio
from attrs import frozen

from scm_trio.chat.asides import Asides
from scm_trio.chat.run import Run
from scm_trio.chat.suggestions import Suggestions
from scm_trio.chat.titles import GiveTitle, Titles
from scm_trio.config import Ai
from scm_trio.store.database import Database


@frozen
class Sidework:
    """See the module."""

    asides: Asides
    titles: Titles
    suggestions: Suggestions

    def begun(self, run: Run) -> None:
        """An answer begins."""
        self.asides.make_way(run.info.provider)

    def ended(self, run: Run) -> None:
        """An answer has ended."""
        self.asides.stir()
        self.titles.concluded(run)

    def changed(self, global_id: str, names: Mapping[str, str], _removed: Collection[str]) -> None:
        """See ``people.People.changed``: a session that nobody is in any more is gone."""
        if not names:
            self.asides.forget_session(global_id)
            self.suggestions.forget_session(global_id)

    def close(self) -> None:
        """Ask nothing any more."""
        self.asides.close()

    async def wait_idle(self) -> None:
        """Return when nothing is asked any more."""
        await self.asides.wait_idle()


def sidework_of(database: Database, asides: Asides, give_title: GiveTitle, ai: Ai, nursery: trio.Nursery) -> Sidework:
    """All of it, as the configuration wants it."""
    return Sidework(
        asides,
        Titles(database, asides, give_title, nursery, enabled=ai.titles),
        Suggestions(database, asides, nursery, enabled=ai.suggestions),
    )

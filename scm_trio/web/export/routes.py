"""The export route: finds the messages, and writes them out as fast as their reader takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from scm_trio.chat.conversations import Excerpt
from scm_trio.chat.media import label
from scm_trio.chat.turns import Turns
from scm_trio.errors import InvalidMessage, NotFound
from scm_trio.protocol import records
from scm_trio.protocol.codec import is_id, timestamp
from scm_trio.protocol.messages import Conversation, StoredMessage
from scm_trio.protocol.texts import Lang
from scm_trio.web.disposition import attachment
from scm_trio.web.errors import language_of
from scm_trio.web.export.as_json import Json
from scm_trio.web.export.html import Html
from scm_trio.web.export.markdown import Markdown
from scm_trio.web.export.renderer import Occasion, Renderer
from scm_trio.web.openapi import BOOLEAN, ERROR, ID, STRING, Answer, Operation, Parameter, model
from scm_trio.web.patience import while_wanted
from scm_trio.web.services import WebServices, path_id
from scm_trio.web.sessions import COUNTED

FORMATS: dict[str, Callable[[Occasion], Renderer]] = {"markdown": Markdown, "json": Json, "html": Html}


_PARAMETERS = (
    Parameter("id", "The session, as the caller calls it, or its globalId", "path", ID),
    Parameter("format", "markdown unless it says otherwise", schema={"enum": list(FORMATS)}),
    Parameter("branch", "A message's id: the branch that ends there; by default, with the newest message"),
    Parameter("tree", "All branches, in the order in which they were said", schema=BOOLEAN),
)


@frozen
class ExportRoutes:
    """The export.

    Attributes:
        services: what it is made with.
        turns: of one user's exports one is read and written at a time, page by page: several go on in turn, and in
            front of the threads that write there is one of each user.
    """

    services: WebServices
    turns: Turns = field(factory=Turns, init=False)

    def operations(self) -> list[Operation]:
        texts = {"text/markdown": STRING, "text/html": STRING}
        return [
            Operation(
                "GET",
                "/scm/ai/sessions/{id}/export",
                self.export,
                "A conversation as a file",
                {
                    200: Answer("The file, to be saved", model(Conversation), otherwise=texts),
                    400: Answer("A parameter is not valid", ERROR),
                    404: Answer("No such session or message, for the caller", ERROR),
                    **COUNTED,
                },
                access="user",
                parameters=_PARAMETERS,
            )
        ]

    async def export(self, request: Request) -> Response:
        principal = await self.services.counted_user(request)
        session_id = path_id(request)
        asked = request.query_params
        form = FORMATS.get(asked.get("format", "markdown"))
        if form is None:
            raise InvalidMessage(field="format", expected=" | ".join(FORMATS))
        tree = asked.get("tree", "false")
        if tree not in {"true", "false"}:
            raise InvalidMessage(field="tree", expected="boolean")
        leaf_id = asked.get("branch")
        if leaf_id is not None and not is_id(leaf_id):
            raise NotFound("no id", field="branch")
        lang = language_of(asked.get("lang"), request.headers.get("accept-language"))

        async def begin() -> Response:
            async with self.turns.of(principal.user_id):
                excerpt = await self.services.conversations.open(
                    principal.user_id, session_id, leaf_id=leaf_id, whole=tree == "true"
                )
            return await self._begin(excerpt, form, lang)

        # Whoever leaves while his other exports go on does not wait in front of those that he still wants.
        return await while_wanted(request, begin)

    async def _begin(self, excerpt: Excerpt, form: Callable[[Occasion], Renderer], lang: Lang) -> Response:
        session = excerpt.session
        renderer = form(Occasion(session, timestamp(self.services.now()), lang))
        headers = {
            "Cache-Control": "private, no-store",
            "Content-Disposition": attachment(f"{label(session.title or session.session_id)}.{renderer.ending}"),
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "Content-Type": renderer.media_type,
        }
        pieces = _Pieces(self.services, self.turns, excerpt, renderer)
        await pieces.prepare()
        return StreamingResponse(pieces, headers=headers)


@define
class _Pieces:
    """Head, pages and tail. No generator, for it may be left in the middle."""

    _services: WebServices
    _turns: Turns
    _excerpt: Excerpt
    _renderer: Renderer
    _position: int = field(default=0, init=False)
    _next: str | None = field(default=None, init=False)

    async def prepare(self) -> None:
        """Make the first piece, so that what fails at once still gets its status."""
        self._next = self._renderer.head() + await self._page()

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> str:
        piece = self._next
        if piece is None:
            raise StopAsyncIteration
        if self._position < len(self._excerpt.message_ids):
            self._next = await self._page()
        else:
            self._next = None
            piece += self._renderer.tail()
        return piece

    async def _page(self) -> str:
        async with self._turns.of(self._excerpt.user_id):
            found, self._position = await self._services.conversations.page(self._excerpt, self._position)
            name = self._excerpt.session.session_id
            # One message at a time, since a thread cannot be cancelled.
            return "".join([await self._render([records.message(each, name)]) for each in found])

    async def _render(self, messages: Sequence[StoredMessage]) -> str:
        text: str = await self._services.offload(self._renderer.page, messages)
        return text

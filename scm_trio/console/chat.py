"""``scm-trio chat``: a conversation in a terminal."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import trio
from attrs import define, frozen
from cyclopts import Parameter

from scm_trio.client import (
    Answer,
    AskOptions,
    Backoff,
    Chat,
    ChatError,
    ClientError,
    ConnectionLost,
    Withdrawn,
    open_chat,
)
from scm_trio.client.background import background
from scm_trio.console.access import (
    DEFAULT_URL,
    FAILED,
    OK,
    USAGE,
    UsageError,
    check_target,
    explain,
    find_token,
    token_source,
)
from scm_trio.console.prompt import OpenLines, ReadLine, open_lines
from scm_trio.console.terminal import Interrupts, Screen, ctrl_c
from scm_trio.protocol import messages
from scm_trio.protocol.texts import language, sentence

PROMPT = "you> "
PATIENCE_S = 300.0
"""How long a program that nobody watches waits for a server that is gone; a person decides that without us."""
HELP = (
    "/new begins a new conversation, /quit leaves, /help shows this. Ctrl-C stops an answer; at the prompt it leaves."
)

Outcome = Literal["whole", "stopped", "failed"]
OpenChat = Callable[..., AbstractAsyncContextManager[Chat]]


@frozen
class Surroundings:
    """What the program meets outside itself; tests bring their own."""

    opener: OpenChat = open_chat
    lines: OpenLines = open_lines
    interrupts: Interrupts = ctrl_c
    screen: Screen | None = None


async def run(  # noqa: PLR0913  # one argument for every option of the command
    url: str = DEFAULT_URL,
    *,
    token: str | None = None,
    token_file: Path | None = None,
    user: str | None = None,
    session: str | None = None,
    model: str | None = None,
    provider: str | None = None,
    once: str | None = None,
    lang: Literal["zh", "en"] | None = None,
    color: bool = True,
    history: bool = True,
    surroundings: Annotated[Surroundings | None, Parameter(parse=False)] = None,
) -> int:
    """Chat with a server in the terminal.

    Ctrl-C stops an answer: the server closes its connection to the model. At the prompt, Ctrl-C or Ctrl-D leaves.
    A broken connection is opened again, and answers go on where they were. When input comes through a pipe, every line is a question. Answers go to standard output, all else to standard error.

    Args:
        url: the server, ws://HOST:PORT or wss://HOST:PORT.
        token: the token; other users of the machine can see it there, so better use a file or SCM_TOKEN.
        token_file: a file that holds the token.
        user: the user the token is for; the server refuses another one.
        session: the chat session; without one a new one.
        model: the model that answers; without one the server's default.
        provider: the provider that answers; without one the server's default.
        once: ask this question, print the answer, leave.
        lang: the language of the server's own sentences.
        color: use colours where the terminal has them.
        history: remember the questions typed, in a file only you can read.
        surroundings: for tests.

    Returns:
        The exit code: 0 all went well, 1 something failed, 2 the command was called wrongly.
    """
    outside = surroundings or Surroundings()
    screen = outside.screen or Screen(color=color)
    options: AskOptions = {"model": model, "provider": provider}
    try:
        check_target(url, find_token(token, token_file))
        session_id = session or f"terminal-{uuid4().hex[:12]}"
        backoff = Backoff(give_up_after_s=None if once is None and sys.stdin.isatty() else PATIENCE_S)
        opening = {"user_id": user, "session_id": session_id, "lang": lang, "reconnect": backoff}
        async with outside.opener(url, token_source(token, token_file), **opening) as chat:
            with outside.interrupts() as interrupts:
                talk = Conversation(chat, screen, interrupts, options, lang)
                async with background() as crew:
                    crew.start_soon(talk.tell_breaks)
                    if once is not None:
                        return OK if await talk.answer(once) == "whole" else FAILED
                    with outside.lines(history) as read_line:
                        return await talk.converse(read_line)
    except UsageError as exc:
        screen.error(str(exc))
        return USAGE
    except ClientError as exc:
        screen.error(explain(exc))
        return FAILED


@define
class Conversation:
    """Questions and answers in one chat."""

    _chat: Chat
    _screen: Screen
    _interrupts: AsyncIterator[int]
    _options: AskOptions
    _lang: str | None
    _leaving: bool = False
    _is_mid_line: bool = False

    async def converse(self, read_line: ReadLine) -> int:
        """Ask line by line until there are no more, or the person leaves.

        Raises:
            ConnectionLost: the connection ended first.
        """
        good = True
        over = trio.Event()
        async with background() as crew:
            crew.start_soon(partial(self._listen, over))
            while not self._leaving:
                line = await self._next_line(read_line, over)
                if self._chat.lost is not None:
                    raise self._chat.lost
                match line and line.strip():
                    case None | "/quit":
                        break
                    case "":
                        continue
                    case "/help":
                        self._screen.note(HELP)
                    case "/new":
                        self._options["conversation_id"] = uuid4().hex
                        self._screen.note("[a new conversation]")
                    case question:
                        good = await self.answer(question) != "failed" and good
        return OK if good else FAILED

    async def answer(self, question: str) -> Outcome:
        """Ask one question and show its answer.

        Raises:
            ConnectionLost: the connection ended first.
        """
        try:
            async with self._chat.ask(question, **self._options) as answer, background() as crew:
                with trio.CancelScope() as reading:
                    crew.start_soon(partial(self._stop_on_interrupt, answer, reading))
                    await self._show(answer)
        except ConnectionLost:
            self._screen.end_line()
            raise
        except Withdrawn:
            self._screen.end_line()
            self._note("STOPPED")
            return "stopped"
        except ClientError as exc:
            self._screen.end_line()
            self._screen.error(f"{exc.text} ({exc.code})" if isinstance(exc, ChatError) else str(exc))
            return "failed"
        finally:
            self._is_mid_line = False
        self._screen.end_line()
        return self._close(answer)

    async def _show(self, answer: Answer) -> None:
        thinking = False
        async for event in answer.events():
            if isinstance(event, messages.ChatStreamStart) and event.reset:
                self._screen.end_line()
                self._screen.note(f"[starting again with {event.model}]")
            if isinstance(event, messages.ChatStreamData):
                if event.reasoning:
                    self._screen.think(event.reasoning)
                elif thinking:
                    self._screen.note("")
                thinking = bool(event.reasoning)
                self._screen.say(event.delta)
                self._is_mid_line = True

    def _close(self, answer: Answer) -> Outcome:
        start, end = answer.start, answer.end
        if start is None or end is None:
            if self._chat.state.name == "open":
                self._screen.note("[left before the server had stopped]")
            else:
                self._note("STOPPED_OFFLINE")
            return "stopped"
        if end.finish_reason == "cancelled":
            closed = f"upstream closed in {end.cancel_ms} ms" if end.upstream_closed else "upstream not closed yet"
            self._screen.note(f"[stopped, {closed}]")
            return "stopped"
        ending = "" if end.finish_reason == "completed" else f" · {end.finish_reason}"
        self._screen.note(f"[{start.model} · {end.total_tokens} tokens · {end.duration / 1000:.1f} s{ending}]")
        return "whole"

    async def _stop_on_interrupt(self, answer: Answer, reading: trio.CancelScope) -> None:
        """The first interrupt stops the answer, the second does not wait for that any longer and leaves.

        Without a connection nobody could say when it has stopped, so that is not waited for.
        """
        stopping = False
        async with background() as crew:
            async for _ in self._interrupts:
                if stopping:
                    self._leaving = True
                    reading.cancel()
                else:
                    stopping = True
                    crew.start_soon(partial(self._cancel_when_offline, reading))
                    if self._chat.state.name == "open":
                        crew.start_soon(partial(_cancel, answer))

    async def _cancel_when_offline(self, reading: trio.CancelScope) -> None:
        async for state in self._chat.states():
            if state.name != "open":
                reading.cancel()

    async def _next_line(self, read_line: ReadLine, over: trio.Event) -> str | None:
        """The next line; None when there are no more, on an interrupt, or when the connection is over."""
        line = None
        async with background() as crew:
            with trio.CancelScope() as waiting:

                async def interrupt() -> None:
                    async for _ in self._interrupts:
                        waiting.cancel()

                async def lose() -> None:
                    await over.wait()
                    waiting.cancel()

                crew.start_soon(interrupt)
                crew.start_soon(lose)
                line = await read_line(PROMPT)
        return line

    async def _listen(self, over: trio.Event) -> None:
        """Show what the server says on its own, but for what the client sees to itself."""
        async for push in self._chat.pushes:
            notice: Any = push.data
            if isinstance(notice, messages.Warning) and notice.token is not None:
                continue
            if isinstance(notice, messages.Warning | messages.Info | messages.SystemMessage):
                self._screen.note(notice.message)
        over.set()

    async def tell_breaks(self) -> None:
        """Say in one line that the connection is lost, and in one that it is back."""
        told = False
        async for state in self._chat.states():
            if state.name == "waiting" and not told:
                told = True
                self._note("RECONNECTING")
            elif state.name == "open" and told:
                told = False
                self._note("RECONNECTED")

    def _note(self, code: str) -> None:
        if self._is_mid_line:
            self._is_mid_line = False
            self._screen.note("")
        self._screen.note(f"[{sentence(code, language(self._lang))}]")


async def _cancel(answer: Answer) -> None:
    # Whoever reads the answer meets the same failure.
    with suppress(ClientError):
        await answer.cancel()

"""A chat client on Trio.

    async with open_chat("ws://localhost:8088", token) as chat:
        async for delta in chat.ask("What is a supply chain?"):
            print(delta, end="", flush=True)

It comes back after a broken connection, and its answers go on where they were; ``docs/protocol.md`` says how.
``wire.open_wire`` is the floor below: typed messages without routing, for test harnesses.
"""

from scm_trio.client.answer import Answer
from scm_trio.client.backoff import Backoff
from scm_trio.client.chat import AskOptions, Chat, ChatOptions, open_chat, open_chat_over
from scm_trio.client.events import AnswerEvent
from scm_trio.client.failures import (
    AnswerGone,
    AskedOtherwise,
    CallLost,
    ChatError,
    ClientError,
    ConnectionLost,
    Diverged,
    GaveUp,
    HandshakeRefused,
    NoToken,
    Unreachable,
    Withdrawn,
)
from scm_trio.client.state import State
from scm_trio.client.supervisor import Connector
from scm_trio.client.tokens import TokenSource
from scm_trio.client.wire import OpenOptions

__all__ = [
    "Answer",
    "AnswerEvent",
    "AnswerGone",
    "AskOptions",
    "AskedOtherwise",
    "Backoff",
    "CallLost",
    "Chat",
    "ChatError",
    "ChatOptions",
    "ClientError",
    "ConnectionLost",
    "Connector",
    "Diverged",
    "GaveUp",
    "HandshakeRefused",
    "NoToken",
    "OpenOptions",
    "State",
    "TokenSource",
    "Unreachable",
    "Withdrawn",
    "open_chat",
    "open_chat_over",
]

"""A chat client on Trio.

    async with open_chat("ws://localhost:8088", token) as chat:
        async for delta in chat.ask("What is a supply chain?"):
            print(delta, end="", flush=True)

``wire.open_wire`` is the floor below: typed messages without routing, for test harnesses.
"""

from scm_trio.client.answer import Answer
from scm_trio.client.chat import AskOptions, Chat, open_chat, open_chat_over
from scm_trio.client.failures import (
    ChatError,
    ClientError,
    ConnectionLost,
    Diverged,
    HandshakeRefused,
    Unreachable,
)
from scm_trio.client.feed import AnswerEvent
from scm_trio.client.wire import OpenOptions

__all__ = [
    "Answer",
    "AnswerEvent",
    "AskOptions",
    "Chat",
    "ChatError",
    "ClientError",
    "ConnectionLost",
    "Diverged",
    "HandshakeRefused",
    "OpenOptions",
    "Unreachable",
    "open_chat",
    "open_chat_over",
]

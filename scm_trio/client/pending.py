"""What waits for the server's word, and what the server has to be told for it, on each connection anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from attrs import frozen

from scm_trio.client.failures import ChatError, ClientError

Refused = Callable[[ChatError], float | None]
"""Takes the ERROR that answers a word; returns the seconds after which there is something to say again, or None."""


@frozen
class Word:
    """A message to the server. With ``refused`` it gets a request id of its own, and an ERROR for that goes there."""

    kind: str
    data: object
    request_id: str | None = None
    refused: Refused | None = None


def _nobody() -> None:
    """Nobody has taken it in yet."""


class Pending(ABC):
    """Something that waits.

    Attributes:
        request_id: what the messages for it carry; None where this client asked for nothing.
        message_id: the answer that it is about, once that is known.
        cancel_on_leave: whether a client that leaves cancels it.
        was_told: the server has been told of it, or may have been.
        nudge: to be called when there is something to say; whoever takes it in sets it.
    """

    cancel_on_leave = False

    def __init__(self, request_id: str | None, message_id: str | None = None) -> None:
        self.request_id = request_id
        self.message_id = message_id
        self.was_told = False
        self.nudge: Callable[[], None] = _nobody

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Nothing will come any more."""

    @abstractmethod
    def words(self) -> Iterator[Word]:
        """What the server has to be told now; what is taken from here counts as told."""

    @abstractmethod
    def take(self, data: object) -> None:
        """Take the data of a message."""

    @abstractmethod
    def fail(self, failure: ClientError) -> None:
        """Nothing will come any more."""

    @abstractmethod
    def lose(self) -> None:
        """The connection is gone; if it is to survive, everything has to be said again on the next one."""

    def want_cancel(self) -> None:  # noqa: B027  # what belongs to its connection goes with it
        """Have the server stop it; does not wait."""

"""Where the database's exceptions end: they become ``StoreError`` without row contents and without passwords."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from scm_trio.errors import StoreError

FOREIGN = (SQLAlchemyError, UnicodeEncodeError, OverflowError)
"""What statements raise. The last two come from the drivers while they bind a value and are passed on unwrapped."""


DEADLOCKS = {"40P01", "40001"}
"""PostgreSQL's codes for: others held what this one needed, and needed what it held."""


class Deadlocked(StoreError):
    """Another transaction was in the way; the same write may succeed at once."""


def described(exc: BaseException) -> StoreError:
    """Return what may be told of a database error: its kind, its code and the constraint's name.

    The message itself is left out, for it quotes statements, parameters and rows.
    """
    cause = getattr(exc, "orig", None) or exc
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    constraint = getattr(getattr(cause, "diag", None), "constraint_name", None)
    kind = Deadlocked if code in DEADLOCKS else StoreError
    return kind(" ".join(str(part) for part in (type(cause).__name__, code, constraint) if part))


@contextmanager
def translated() -> Iterator[None]:
    """Turn the database's exceptions into ``StoreError``; all others pass."""
    try:
        yield
    except FOREIGN as exc:
        raise described(exc) from None

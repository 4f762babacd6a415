"""What Spark says when it refuses, over WebSocket or HTTP, as this house's failures. No clock, no network."""

from __future__ import annotations

import re

from attrs import evolve, field, frozen

from scm_trio.errors import (
    ContentFiltered,
    ContextTooLong,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    RequestFailed,
)
from scm_trio.providers.openai_errors import Billing, Classifier, Codes, Permission, VendorError


class _ClockSkew(ProviderAuth):
    """Stands for a signature whose date is too far from the server's."""


class _Unknown(ProviderRejected):
    """Stands for a code that is in no table."""


_CODES: Codes = {
    **dict.fromkeys(("10000", "10001", "10002"), ProviderUnavailable),
    **dict.fromkeys(("10003", "10004", "10005"), ProviderRejected),
    # Too many at a time, of one user.
    **dict.fromkeys(("10006", "10007"), ProviderRateLimited),
    # Capacity, and the engine behind.
    **dict.fromkeys(("10008", "10009", "10010", "10011", "10012", "10017", "10110", "10222"), ProviderUnavailable),
    # Audits of the question, the answer, the conversation and its images.
    **dict.fromkeys(("10013", "10014", "10019", "10021", "10022"), ContentFiltered),
    # Blacklisted, not enabled. 11200 may be a used-up volume as well.
    **dict.fromkeys(("10015", "11200", "11500"), ProviderAuth),
    "10016": Permission,
    **dict.fromkeys(("10163", "10404", "11501"), ProviderRejected),
    "10907": ContextTooLong,
    "11201": Billing,
    **dict.fromkeys(("11202", "11203"), ProviderRateLimited),
}
_BAD_DATE = re.compile(r"valid date or x-date header", re.IGNORECASE)


@frozen
class SparkClassifier(Classifier):
    """Turns errors into failures; ``field`` = ``clock`` is the clock of this machine."""

    codes: Codes = field(factory=lambda: _CODES)

    def _kind(self, error: VendorError, status: int | None) -> type[RequestFailed]:
        if _BAD_DATE.search(error.message):
            return _ClockSkew
        kind = super()._kind(error, status)
        return _Unknown if kind is ProviderUnavailable and self._is_unknown(error.code) else kind

    def _is_unknown(self, code: str) -> bool:
        """Whether it is one of Spark's own codes, rather than a status, that its documents do not have."""
        return code.isdecimal() and not 400 <= int(code) < 600 and code not in self.codes

    def _failure(
        self, kind: type[RequestFailed], error: VendorError, where: str, wait_s: float | None = None
    ) -> RequestFailed:
        if kind is _Unknown:
            # Nobody knows what trying again would cost.
            failure = super()._failure(ProviderRejected, error, where, wait_s)
            failure.elsewhere = True
            return failure
        if kind is not _ClockSkew:
            return super()._failure(kind, error, where, wait_s)
        asked = evolve(error, message=f"{error.message} (is this machine's clock right?)")
        failure = super()._failure(ProviderAuth, asked, where, wait_s)
        failure.field = "clock"
        return failure

"""What OpenAI and the many servers like it say when they refuse, as this house's failures.

Pure apart from the date in ``retry-after``. Four rules that are not obvious:

- What a key may not have (a model, a region) is ``ProviderAuth`` with ``field="permission"``: other requests may go well.
- A billing stop (no credit, a spend limit, an account in arrears) is ``ProviderAuth`` with ``field="quota"``: like a wrong
  key it does not go away by waiting, concerns the key rather than the request, and needs the operator.
- Codes mean different things at different vendors (``insufficient_quota``), so a vendor's own table comes first.
- An inner code says more than the status: 429 may be a billing stop, 400 a filter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from scm_trio.errors import (
    ContentFiltered,
    ContextTooLong,
    ModelUnknown,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    RequestFailed,
)
from scm_trio.providers import tolerant_json
from scm_trio.providers.refusals import MAX_WAIT_S, redacted, retry_after_s

Codes = Mapping[str, type[RequestFailed]]
"""Failures by what stands in an error's ``code`` or ``type``."""


class Billing(ProviderAuth):
    """Stands for a billing stop in tables of codes."""


class Permission(ProviderAuth):
    """Stands in tables of codes for a key that is right, and may not have what was asked for."""


_ABOUT: Mapping[type[RequestFailed], str] = {Billing: "quota", Permission: "permission"}
"""What is wrong with a key, where it is not the key itself: the ``field`` of the failure."""

_CODES: Codes = {
    # OpenAI
    "invalid_api_key": ProviderAuth,
    "authentication_error": ProviderAuth,
    "insufficient_quota": Billing,
    "credit_balance_exhausted": Billing,
    "organization_spend_limit_exceeded": Billing,
    "project_spend_limit_exceeded": Billing,
    "organization_usage_limit_exceeded": Billing,
    "rate_limit_exceeded": ProviderRateLimited,
    "rate_limit_error": ProviderRateLimited,
    "slow_down": ProviderRateLimited,
    "context_length_exceeded": ContextTooLong,
    "content_policy_violation": ContentFiltered,
    "content_filter": ContentFiltered,
    "model_not_found": ModelUnknown,
    "server_is_overloaded": ProviderUnavailable,
    "service_unavailable_error": ProviderUnavailable,
    "server_error": ProviderUnavailable,
    # Azure
    "DeploymentNotFound": ModelUnknown,
    # llama.cpp
    "exceed_context_size_error": ContextTooLong,
    "unavailable_error": ProviderUnavailable,
    # DashScope
    "data_inspection_failed": ContentFiltered,
    "Arrearage": Billing,
    # Moonshot
    "exceeded_current_quota_error": Billing,
    "rate_limit_reached_error": ProviderRateLimited,
    "engine_overloaded_error": ProviderUnavailable,
    "invalid_authentication_error": ProviderAuth,
}
_REJECTED = frozenset({"invalid_request_error", "BadRequestError", "not_supported_error"})
"""So general that any status says more; they count inside answers, which have none."""
_STATUSES: Mapping[int, type[RequestFailed]] = {
    401: ProviderAuth,
    402: Billing,
    403: Permission,
    408: ProviderUnavailable,
    409: ProviderUnavailable,
    429: ProviderRateLimited,
    434: Permission,  # Zhipu
    501: ProviderRejected,
}
_TOO_LONG = re.compile(
    r"context (?:size|length|window|limit)|(?:prompt|input) (?:is )?too long|reduce the length", re.IGNORECASE
)
_NOT_ABOUT_LENGTH = frozenset({401, 403, 429})
_NO_MODEL = re.compile(r"\bmodel\b", re.IGNORECASE)
_WAIT = re.compile(r"retry after (\d+) second", re.IGNORECASE)


@frozen
class VendorError:
    """What an error object says, whatever its shape; codes that are numbers are told as text."""

    message: str = ""
    code: str = ""
    type: str = ""


@frozen
class Classifier:
    """Turns errors into failures.

    Attributes:
        name: the provider's name, for details.
        codes: the vendor's own meanings of codes; they come first.
        secrets: what must not be seen in a detail.
        model: what was asked for, as the one who asked calls it.
        no_credit: what a message says where it is about money, though code and status could be about a rate.
    """

    name: str
    codes: Codes = field(factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    model: str | None = None
    no_credit: re.Pattern[str] | None = None

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> RequestFailed:
        """Return the failure for an HTTP answer that is not a success."""
        error = error_in_body(body)
        kind = self._kind(error, status)
        should_retry = headers.get("x-should-retry")
        if should_retry == "true" and kind is ProviderRejected:
            kind = ProviderUnavailable
        wait_s = retry_after_s(headers)
        if wait_s is None and (match := _WAIT.search(error.message)):
            wait_s = min(float(match[1]), MAX_WAIT_S)
        failure = self._failure(kind, error, f"status {status}", wait_s)
        if should_retry == "false":
            failure.again_here = False
        return failure

    def failed(self, error: VendorError) -> RequestFailed:
        """Return the failure for an error inside an answer whose status was 200."""
        return self._failure(self._kind(error, None), error, "in the answer")

    def unavailable(self, what: str) -> RequestFailed:
        """Return the failure for an answer that is none: cut, empty or unreadable."""
        return ProviderUnavailable(f"{self.name}: {what}")

    def _failure(
        self, kind: type[RequestFailed], error: VendorError, where: str, wait_s: float | None = None
    ) -> RequestFailed:
        words = " ".join(word for word in (where, error.type, error.code, error.message) if word)
        detail = redacted(f"{self.name}: {words}", self.secrets)
        if about := _ABOUT.get(kind):
            return ProviderAuth(detail, field=about, retry_after_s=wait_s)
        if kind is ModelUnknown:
            return ModelUnknown(detail, retry_after_s=wait_s, model=self.model)
        return kind(detail, retry_after_s=wait_s)

    def _kind(self, error: VendorError, status: int | None) -> type[RequestFailed]:
        if self.no_credit is not None and self.no_credit.search(error.message):
            return Billing
        names = (error.code, error.type)
        if kind := _first_of(names, self.codes):
            return kind
        if status is None and error.code.isdecimal() and 400 <= int(error.code) < 600:
            status = int(error.code)
        if status not in _NOT_ABOUT_LENGTH and _TOO_LONG.search(error.message):
            return ContextTooLong
        if kind := _first_of(names, _CODES):
            return kind
        if status is None:
            return ProviderUnavailable if _REJECTED.isdisjoint(names) else ProviderRejected
        if status == 404 and _NO_MODEL.search(error.message):
            return ModelUnknown
        return _STATUSES.get(status) or (ProviderUnavailable if status >= 500 else ProviderRejected)


def _first_of(names: tuple[str, ...], codes: Codes) -> type[RequestFailed] | None:
    return next((codes[name] for name in names if name in codes), None)


def error_in(payload: Any) -> VendorError | None:
    """Return the error that a chunk or a body is, or holds, in any of the known shapes; None: it is none."""
    if not isinstance(payload, dict):
        return None
    if error := payload.get("error"):
        return _vendor_error(error)
    if payload.get("object") == "error":  # older vLLM: no wrapper
        return _vendor_error(payload)
    return None if payload.get("choices") else own_code_in(payload)


def own_code_in(payload: dict[str, Any]) -> VendorError | None:
    """Return the error that a code at the top of a chunk or a body tells, as Spark's do; 0 is none."""
    return None if str(payload.get("code") or 0) == "0" else _vendor_error(payload)


def error_field(value: bytes) -> VendorError:
    """Return the error in an event's field called ``error``."""
    return error_in_body(b'{"error":%b}' % value) if value.startswith(b"{") else VendorError(_text(value))


def _vendor_error(error: Any) -> VendorError:
    if not isinstance(error, dict):
        return VendorError(str(error))
    # Azure's gateway says statusCode and has neither code nor type.
    code = error.get("code") or error.get("statusCode") or _inner_code(error) or ""
    return VendorError(str(error.get("message") or ""), str(code), str(error.get("type") or ""))


def _inner_code(error: dict[str, Any]) -> object:
    """What Anthropic tells in the details, and Azure in an inner error."""
    for holder, name in ((error.get("details"), "error_code"), (error.get("innererror"), "code")):
        if isinstance(holder, dict):
            return holder.get(name)
    return None


def error_in_body(body: bytes) -> VendorError:
    """Return the error that a body is, which is known to be one, whatever it looks like."""
    try:
        payload = tolerant_json.loads(body)
    except ValueError:
        return VendorError(_text(body))
    return error_in(payload) or _vendor_error(payload)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace").strip()

"""What Anthropic says when it refuses, as this house's failures. Pure apart from the date in ``retry-after``."""

from __future__ import annotations

import re

from attrs import field, frozen

from scm_trio.errors import (
    ContentFiltered,
    ProviderAuth,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnavailable,
    RequestFailed,
)
from scm_trio.providers.openai_errors import Billing, Classifier, Codes, Permission, VendorError

_CODES: Codes = {
    # details.error_code of a rate_limit_error
    "enforced_spend_limit_reached": Billing,
    "contract_spend_limit_reached": Billing,
    "ramp_limit_exceeded": ProviderRateLimited,
    # types
    "authentication_error": ProviderAuth,
    "permission_error": Permission,
    "billing_error": Billing,
    "rate_limit_error": ProviderRateLimited,
    "request_too_large": ProviderRejected,
    "conflict_error": ProviderUnavailable,
    "api_error": ProviderUnavailable,
    "timeout_error": ProviderUnavailable,
    "overloaded_error": ProviderUnavailable,
}
# Both come as invalid_request_error, told apart by nothing but their words.
_BLOCKED = re.compile(r"content filtering policy", re.IGNORECASE)
_NO_CREDIT = re.compile(r"credit balance is too low|API usage limits", re.IGNORECASE)
_PARAMETER = re.compile(r"(temperature|max_tokens)\b")
_FIELDS = {"temperature": "data.temperature", "max_tokens": "data.maxTokens"}


@frozen
class AnthropicClassifier(Classifier):
    """Turns errors into failures; one about a parameter names the field of the request that it came from."""

    codes: Codes = field(factory=lambda: _CODES)
    no_credit: re.Pattern[str] | None = _NO_CREDIT

    def _kind(self, error: VendorError, status: int | None) -> type[RequestFailed]:
        if error.type == "invalid_request_error" and _BLOCKED.search(error.message):
            return ContentFiltered
        return super()._kind(error, status)

    def _failure(
        self, kind: type[RequestFailed], error: VendorError, where: str, wait_s: float | None = None
    ) -> RequestFailed:
        failure = super()._failure(kind, error, where, wait_s)
        if kind is ProviderRejected and (match := _PARAMETER.match(error.message)):
            failure.field = _FIELDS[match[1]]
        return failure

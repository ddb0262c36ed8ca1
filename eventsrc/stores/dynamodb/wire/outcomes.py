"""What each response of the service proves, and the library's error for it.

Sources: "Error handling with DynamoDB" in the Amazon DynamoDB Developer Guide, and experiments with the SDK, which show
that a transport error never proves that nothing was written.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from ....errors import StoreError, StoreRejected, StoreUnavailable, Throttled
from .client import CLOCK_CORRECTED, CertificateRefused, NotSent, Reply, ServiceError, TransportError
from .responses import Cancelled

T = TypeVar("T")


CONDITION_FAILED = "ConditionalCheckFailedException"

_THROTTLE_CODES = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "LimitExceededException",
        "ReplicatedWriteConflictException",
        "TransactionConflictException",
    }
)

_RETRYABLE_CODES = _THROTTLE_CODES | {CLOCK_CORRECTED}

_CREDENTIALS = "the credentials are not valid or have expired; renew them"
_PROFILE = "the configuration of the credentials is not valid; correct the profile or its file"
_SSO = "the SSO session is missing or has expired; run `aws sso login` with the profile"
_CLOCK = "the signature does not match; correct the clock, or the secret key"
_RIGHTS = "the credentials lack a right that the store needs; see the IAM policy in docs/operations.md"
_ADVICE = {
    CONDITION_FAILED: "the condition failed",
    "ValidationException": "the service refuses the request; are the table's key names and types those of the store?",
    "ResourceNotFoundException": "there is no table of this name; create it with `await store.create_table()`",
    "ResourceInUseException": "the table exists or is being changed",
    "ItemCollectionSizeLimitExceededException": "the stream is larger than a table with a local index allows",
    "RequestEntityTooLarge": "the request is larger than the service accepts; save fewer events",
    "ExpiredIteratorException": "the shard iterator is too old; request a new one",
    "TrimmedDataAccessException": "the requested records are gone from the stream",
    "UnknownOperationException": "this endpoint does not offer the operation",
    "AccessDeniedException": _RIGHTS,
    "AccessDenied": _RIGHTS,
    "ExpiredTokenException": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "MissingAuthenticationTokenException": _CREDENTIALS,
    "IncompleteSignatureException": _CLOCK,
    "InvalidSignatureException": _CLOCK,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "NoCredentialsError": "no credentials were found; configure the session",
    "PartialCredentialsError": "the credentials are incomplete; give both the access key and the secret key",
    "CredentialRetrievalError": "the source of the credentials does not return them",
    "ProfileNotFound": _PROFILE,
    "ConfigNotFound": _PROFILE,
    "ConfigParseError": _PROFILE,
    "InvalidConfigError": _PROFILE,
    "UnknownCredentialError": _PROFILE,
    "SSOTokenLoadError": _SSO,
    "UnauthorizedSSOTokenError": _SSO,
    "TokenRetrievalError": _SSO,
    "RefreshWithMFAUnsupportedError": "the role needs an MFA code, which cannot be requested; use other credentials",
    "ParamValidationError": "the SDK refuses the request",
}


_CANCELLATION_CODES = {
    "ConditionalCheckFailed": CONDITION_FAILED,
    "ValidationError": "ValidationException",
    "ItemCollectionSizeLimitExceeded": "ItemCollectionSizeLimitExceededException",
    "TransactionConflict": "TransactionConflictException",
    "ProvisionedThroughputExceeded": "ProvisionedThroughputExceededException",
    "ThrottlingError": "ThrottlingException",
}
"""By precedence: a transaction with a failed condition is not sent again, even if it was also throttled."""


class DeadlinePassed(Exception):
    """The deadline passed without a definite outcome. If `ambiguous`, something may have been written."""

    def __init__(self, ambiguous: bool, last: Exception | None) -> None:
        super().__init__(ambiguous)
        self.ambiguous, self.last = ambiguous, last

    @property
    def reason(self) -> str:
        """The code of the last response, or the kind of the last error."""
        if isinstance(self.last, ServiceError):
            return self.last.code or str(self.last.status)
        return str(self.last or "")

    def to_store_error(self) -> StoreError:
        """Return the error to raise if nothing was written, or if writing it twice does no harm."""
        if isinstance(self.last, ServiceError):
            if is_throttle(self.last):
                return Throttled(f"{self.last.code} until the deadline; slow down, or raise the table's capacity")
            return StoreUnavailable(f"{self.reason} until the deadline; try again later")
        if isinstance(self.last, CertificateRefused):
            return to_certificate_rejection(self.last)
        if self.last is None and not self.ambiguous:
            return Throttled(
                "no connection became free before the deadline; raise max_connections, or send fewer requests at once"
            )
        advice = self.last.advice if isinstance(self.last, NotSent) else "is the endpoint reachable?"
        return StoreUnavailable(f"{self.reason or 'no response'} until the deadline; {advice}")


def to_certificate_rejection(refused: CertificateRefused) -> StoreRejected:
    return StoreRejected("CertificateRefused", str(refused))


class ConditionNotMet(StoreRejected):
    """The condition of a write was not met. `reply` may contain the stored item, so it is never shown."""

    def __init__(self, code: str, advice: str, reply: Reply | None = None) -> None:
        super().__init__(code, advice)
        self.reply = reply


def to_store_rejected(error: ServiceError, *tables: str, quoting: bool = False) -> StoreRejected:
    """Return the library's error for a request to these tables that the service refused permanently.

    `quoting` adds the service's message, which may quote values. It is for requests that a user has written.
    """
    code = error.code or str(error.status)
    advice = _ADVICE.get(error.code, "the service refuses the request")
    if error.code == "ResourceNotFoundException" and tables:
        advice += f" ({', '.join(sorted(set(tables)))})"
    if error.detail:
        advice += f": {error.detail}"
    if quoting and error.reply is not None:
        try:
            message = error.reply.read(_ErrorMessage)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            message = _ErrorMessage()
        advice += "".join(f": {text}" for text in (message.text, *(each.Message for each in message.reasons)) if text)
    if error.code == CONDITION_FAILED:
        return ConditionNotMet(code, advice, error.reply)
    return StoreRejected(code, advice)


class _Reason(msgspec.Struct):
    Message: str | None = None


class _ErrorMessage(msgspec.Struct):
    """The message of an error, in the forms of the service and of the SDK."""

    message: str = ""
    Message: str = ""
    Error: dict[str, Any] = {}
    reasons: list[_Reason] = msgspec.field(name="CancellationReasons", default_factory=list)

    @property
    def text(self) -> str:
        return self.message or self.Message or str(self.Error.get("Message", ""))


def unwrap_cancellation(error: ServiceError) -> ServiceError:
    """Return the error, or for a cancelled transaction its reason, with the code that a single write would get."""
    if error.code != "TransactionCanceledException" or error.reply is None:
        return error
    try:
        reasons = {reason.Code for reason in error.reply.read(Cancelled[Any]).CancellationReasons}
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return error
    code = next((code for reason, code in _CANCELLATION_CODES.items() if reason in reasons), error.code)
    return ServiceError(code, error.status, error.reply, repeated=error.repeated, detail=error.detail)


def is_definite(error: Exception) -> bool:
    """Whether this try provably wrote nothing: it was refused, or never sent.

    The code decides, never the message. An unknown code proves nothing, nor does an answer to a second attempt.
    """
    if not isinstance(error, ServiceError):
        return isinstance(error, NotSent)
    if error.repeated:
        return False
    return error.status == 413 or (error.status < 500 and (error.code in _RETRYABLE_CODES or error.code in _ADVICE))


def is_throttle(error: BaseException) -> bool:
    return isinstance(error, ServiceError) and error.code in _THROTTLE_CODES


def is_worth_repeating(error: BaseException) -> bool:
    if isinstance(error, ServiceError):
        return error.code in _RETRYABLE_CODES or not is_definite(error)
    return isinstance(error, TransportError) and not isinstance(error, CertificateRefused)

"""What an answer of the service proves, and sending until it proves something.

Sources: "Error handling with DynamoDB" in the Amazon DynamoDB Developer Guide, and trials against the SDK, which show
that no transport error proves that nothing was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_random_exponential

from ....errors import StoreError, StoreRejected, StoreUnavailable, Throttled
from ....usage import Usage
from .client import CLOCK_CORRECTED, Client, NotSent, Reply, ServiceError, TransportError
from .responses import Cancelled, Metered, send_once

T = TypeVar("T")

_READS = frozenset({"GetItem", "Query", "Scan", "BatchGetItem"})

CONDITION_FAILED = "ConditionalCheckFailedException"

_THROTTLED = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "ThrottlingException",
        "RequestLimitExceeded",
        "LimitExceededException",
        "ReplicatedWriteConflictException",
        "TransactionConflictException",
    }
)

_NOT_DONE = _THROTTLED | {CLOCK_CORRECTED}

_CREDENTIALS = "the credentials are not valid (any more); renew them"
_CLOCK = "the signature does not fit; correct the clock, or the secret key"
_RIGHTS = "the credentials lack a right that the store needs; see the IAM policy in docs/operations.md"
_REJECTED = {
    CONDITION_FAILED: "the condition failed",
    "ValidationException": "the service refuses the request; do the table's key names and types fit the store's?",
    "ResourceNotFoundException": "there is no such table here; create it with `await store.create_table()`",
    "ResourceInUseException": "the table exists or is being changed",
    "ItemCollectionSizeLimitExceededException": "the stream is larger than a table with a local index allows",
    "RequestEntityTooLarge": "the request is larger than the service takes; save fewer events",
    "ExpiredIteratorException": "the place in the stream was kept for too long; ask for it again",
    "TrimmedDataAccessException": "what was asked for is gone from the stream",
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
    "NoCredentialsError": "no credentials were found; give the session some",
    "PartialCredentialsError": "the credentials are incomplete; give key and secret",
    "CredentialRetrievalError": "the credentials could not be had from their source",
    "ParamValidationError": "the SDK refuses the request",
}


_CANCELLED = {
    "ConditionalCheckFailed": CONDITION_FAILED,
    "ValidationError": "ValidationException",
    "ItemCollectionSizeLimitExceeded": "ItemCollectionSizeLimitExceededException",
    "TransactionConflict": "TransactionConflictException",
    "ProvisionedThroughputExceeded": "ProvisionedThroughputExceededException",
    "ThrottlingError": "ThrottlingException",
}
"""By weight: a transaction of which a condition has failed is not worth repeating for being throttled, too."""

_LAST_TRY = 0.9
"""After this share of the deadline no try begins: it would be cut short, and a definite outcome made unknown."""


class DeadlinePassed(Exception):
    """The deadline passed without a definite answer. `ambiguous`: something may have been done."""

    def __init__(self, ambiguous: bool, last: Exception | None) -> None:
        super().__init__(ambiguous)
        self.ambiguous, self.last = ambiguous, last

    @property
    def reason(self) -> str:
        """What the last answer was, or the kind of error there was instead."""
        if isinstance(self.last, ServiceError):
            return self.last.code or str(self.last.status)
        return str(self.last or "")

    def definite(self) -> StoreError:
        """The error to raise where nothing can have been done, or where doing it twice does no harm."""
        if isinstance(self.last, ServiceError):
            if is_throttle(self.last):
                return Throttled(f"{self.last.code} until the deadline; slow down, or raise the table's capacity")
            return StoreUnavailable(f"{self.reason} until the deadline; try again later")
        if self.last is None and not self.ambiguous:
            return Throttled("no connection became free before the deadline; raise max_connections, or do less at once")
        return StoreUnavailable(f"{self.reason or 'no answer'} until the deadline; is the endpoint reachable?")


class ConditionNotMet(StoreRejected):
    """The condition of a write was not met. `reply` may contain what is stored there, so it is never shown."""

    def __init__(self, code: str, advice: str, reply: Reply | None = None) -> None:
        super().__init__(code, advice)
        self.reply = reply


def rejected(error: ServiceError, *tables: str, quoting: bool = False) -> StoreRejected:
    """The library's error for a permanent refusal of a request to these tables.

    `quoting` adds what the service says, for requests that a user has written: it may quote values.
    """
    code = error.code or str(error.status)
    advice = _REJECTED.get(error.code, "the service refuses the request")
    if error.code == "ResourceNotFoundException" and tables:
        advice += f" ({', '.join(sorted(set(tables)))})"
    if quoting and error.reply is not None:
        try:
            said = error.reply.read(_Said)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            said = _Said()
        advice += "".join(f": {text}" for text in (said.text, *(each.Message for each in said.reasons)) if text)
    if error.code == CONDITION_FAILED:
        return ConditionNotMet(code, advice, error.reply)
    return StoreRejected(code, advice)


class _Reason(msgspec.Struct):
    Message: str | None = None


class _Said(msgspec.Struct):
    """What an error says for people, in the shapes of the service and of the SDK."""

    message: str = ""
    Message: str = ""
    Error: dict[str, Any] = {}
    reasons: list[_Reason] = msgspec.field(name="CancellationReasons", default_factory=list)

    @property
    def text(self) -> str:
        return self.message or self.Message or str(self.Error.get("Message", ""))


def refusal(error: ServiceError) -> ServiceError:
    """The same or, of a cancelled transaction, what cancelled it, under the code that a single write would get."""
    if error.code != "TransactionCanceledException" or error.reply is None:
        return error
    try:
        reasons = {reason.Code for reason in error.reply.read(Cancelled).CancellationReasons}
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return error
    code = next((code for reason, code in _CANCELLED.items() if reason in reasons), error.code)
    return ServiceError(code, error.status, error.reply)


def count_tries(
    client: Client, operation: str, request: Mapping[str, Any], kind: type[T], used: Usage
) -> Callable[[], Awaitable[T]]:
    """Return a function that sends the request once, and counts in `used` what that consumed."""
    tries = 0

    async def once() -> T:
        nonlocal tries
        tries += 1
        used.requests += 1
        used.retries += tries > 1
        try:
            response = await send_once(client, operation, request, kind)
        except ServiceError as error:
            failure = refusal(error)
        else:
            if isinstance(response, Metered):
                if operation in _READS:
                    used.read_units += response.units
                else:
                    used.write_units += response.units
            return response
        raise failure  # outside the handler: it stands for the other one

    return once


async def send(call: Callable[[], Awaitable[T]], connections: asyncio.Semaphore, deadline: float) -> T:
    """Call until the answer is definite; a resent request must therefore be the same to the last byte.

    Raises ServiceError when the service definitely refused, and DeadlinePassed when `deadline` seconds have passed, or
    when a permanent refusal came after a try whose outcome is unknown: unknown is sticky.
    """
    ambiguous = False
    last: Exception | None = None
    now = asyncio.get_running_loop().time
    latest = now() + deadline * _LAST_TRY

    async def once() -> T:
        nonlocal ambiguous, last
        async with connections:
            if now() > latest:
                raise TimeoutError
            before, ambiguous = ambiguous, True
            try:
                return await call()
            except (ServiceError, TransportError) as error:
                last = error
                if _is_definite(error):
                    ambiguous = before
                raise

    try:
        async with asyncio.timeout(deadline):
            try:
                return await once()
            except (ServiceError, TransportError) as error:
                if not is_worth_repeating(error):
                    raise
            retrying = AsyncRetrying(
                retry=retry_if_exception(is_worth_repeating),
                wait=wait_random_exponential(multiplier=0.05, max=2.0),
                stop=stop_before_delay(deadline),
                reraise=True,
            )
            await asyncio.sleep(0.025)
            return await retrying(once)
    except ServiceError as error:
        if is_worth_repeating(error) or (ambiguous and error.code != CONDITION_FAILED):
            raise DeadlinePassed(ambiguous, error) from None
        raise
    except (TimeoutError, TransportError):
        raise DeadlinePassed(ambiguous, last) from None


def _is_definite(error: Exception) -> bool:
    """Whether this try provably did nothing, by its answer or because it was never sent. Codes count, never texts; an
    unknown code proves nothing.
    """
    if not isinstance(error, ServiceError):
        return isinstance(error, NotSent)
    return error.status == 413 or (error.status < 500 and (error.code in _NOT_DONE or error.code in _REJECTED))


def is_throttle(error: BaseException) -> bool:
    return isinstance(error, ServiceError) and error.code in _THROTTLED


def is_worth_repeating(error: BaseException) -> bool:
    if isinstance(error, ServiceError):
        return error.code in _NOT_DONE or not _is_definite(error)
    return isinstance(error, TransportError)

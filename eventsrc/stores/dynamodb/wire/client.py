"""The interface of a client: one method that sends one request once, and the errors that it raises.

Requests have the form of the service's JSON, with bytes for binary values. The caller decodes the reply, because it
knows its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


CLOCK_CORRECTED = "ClockCorrected"
"""A code of this library: the request was refused because our clock was wrong. The next one has the right time."""


CHECK_CREDENTIALS = "try again later, and check the source of the credentials"
"""What to do if there are no credentials at this moment."""


def divide(deadline: float) -> tuple[float, float]:
    """Return the seconds for making a connection, and for an exchange. A try that fails leaves time for another one."""
    return min(deadline / 3, 3.0), deadline / 2


class Reply(Protocol):
    """A response as it was received."""

    @property
    def date(self) -> str:
        """The Date header: when the service sent the response, by its clock. Empty if there is none."""
        ...

    @property
    def request_id(self) -> str:
        """The header x-amzn-requestid: the service's number for the request. Empty if there is none."""
        ...

    def read(self, kind: type[T]) -> T:
        """Decode the response as this type. Raises msgspec.ValidationError if it has another form."""
        ...


class ServiceError(Exception):
    """An error that the service returned. `reply` is the whole response: it has the item if a condition failed.

    The service's message is not kept, because it may change and may quote values. If the client has sent the request
    more than once (`repeated`), the error says nothing about the earlier attempts. An error with status 0 is not the
    service's: nothing was sent, and `detail` says why, without secrets.
    """

    def __init__(
        self, code: str, status: int, reply: Reply | None = None, *, repeated: bool = False, detail: str = ""
    ) -> None:
        super().__init__(code, status)
        self.code, self.status, self.reply, self.repeated, self.detail = code, status, reply, repeated, detail


class TransportError(Exception):
    """No usable response: the request may have been carried out, or may be carried out later."""


class NotSent(TransportError):
    """Nothing was sent: there were no credentials or no connection. So this try did nothing."""

    def __init__(self, reason: str, advice: str = "is the endpoint reachable?") -> None:
        super().__init__(reason)
        self.advice = advice


class CertificateRefused(NotSent):
    """Nothing was sent, because the certificate of the other side is refused. Another try does not help.

    The text names the host, says why, and says what to do.
    """


class Client(Protocol):
    """A client as the store needs it."""

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        """Send one request, once, for an operation such as `PutItem`.

        Raises:
            ServiceError, TransportError: the request failed.
            CancelledError: the cause is NotSent if nothing was sent before.
        """
        ...

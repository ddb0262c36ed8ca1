"""The seam: one call, which sends one request once, and the two ways it fails.

Requests have the shape of the service's own JSON, with bytes for binary values. Answers are decoded by whoever asked,
who knows what they should be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


CLOCK_CORRECTED = "ClockCorrected"
"""No code of the service: our clock was off, the request was refused, and the next one will be signed rightly."""


class Reply(Protocol):
    """An answer as it came."""

    def read(self, kind: type[T]) -> T:
        """The answer as this type. Raises msgspec.ValidationError if it is no such thing."""
        ...


class ServiceError(Exception):
    """The service answered with an error. `reply` is all it said, for what stood there when a condition failed.

    The service's text is dropped: it is no contract, and may quote values.
    """

    def __init__(self, code: str, status: int, reply: Reply | None = None) -> None:
        super().__init__(code, status)
        self.code, self.status, self.reply = code, status, reply


class TransportError(Exception):
    """No usable answer: the request may have been carried out, or still be."""


class NotSent(TransportError):
    """No connection came about: this try has done nothing."""


class Client(Protocol):
    """What the store needs. A call sends one request, once."""

    async def call(self, operation: str, request: Mapping[str, Any]) -> Reply:
        """Send a request for an operation such as `PutItem`. Raises ServiceError or TransportError."""
        ...

"""An event of another service, as it was received: a CloudEvent and the token after it."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Optional, TypeVar

import msgspec

T = TypeVar("T")

_REQUIRED = ("id", "source", "type")
_TIME: Any = Optional[Annotated[datetime, msgspec.Meta(tz=True)]]  # noqa: UP045  # pyright takes no | here
_SCALAR: Any = str | Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] | bool


class ReceivedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A CloudEvent of another service.

    - `time` is when it happened, by the clock of its service, or None.
    - `content` is the JSON of its data, as it was sent; b"null" if there is none.
    - `extensions` are all other attributes, such as `correlationid` and `datacontenttype`.
    - `token` is the text from which to resume: no event after this one is left out. An event of a page of history has
      the token of its page's start, except the last one, so that others of that page may come again.
    """

    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    content: bytes = b"null"
    extensions: Mapping[str, str | int | bool] = {}
    token: str = ""

    @property
    def data(self) -> Any:
        """The data, decoded from JSON as dictionaries, lists, texts and numbers."""
        return msgspec.json.decode(self.content)

    @classmethod
    def parse(cls, body: bytes, token: str = "") -> ReceivedEvent:
        """Return the CloudEvent with this JSON, as from a queue. Raises ValueError, which does not quote the event."""
        return parse_event(body, token)

    def read(self, kind: builtins.type[T]) -> T:
        """Return the data as an object of this type: anything that msgspec reads. Raises msgspec.ValidationError."""
        return msgspec.json.decode(self.content, type=kind)

    @property
    def traceparent(self) -> str | None:
        """The W3C Trace Context in which it was stored, if the service sends it."""
        return self._text("traceparent")

    @property
    def correlation_id(self) -> str | None:
        return self._text("correlationid")

    @property
    def attributes(self) -> Mapping[str, Any]:
        """All attributes except the data, under the names of CloudEvents: what `trace_cloud_event` takes."""
        own = {"id": self.id, "source": self.source, "type": self.type, "subject": self.subject, "time": self.time}
        return {**self.extensions, **{name: value for name, value in own.items() if value is not None}}

    def _text(self, name: str) -> str | None:
        value = self.extensions.get(name)
        return value if isinstance(value, str) else None

    def __repr__(self) -> str:
        return f"<ReceivedEvent {self.id} of {self.source}: {self.type}, {len(self.content)} bytes>"


def parse_event(body: bytes | msgspec.Raw, token: str = "") -> ReceivedEvent:
    """Return the CloudEvent with this JSON. Raises ValueError, whose message does not quote the event."""
    try:
        attributes = _decode_attributes(body)
    except msgspec.DecodeError:
        raise ValueError("an event is not a JSON object") from None
    if _read(attributes, "specversion", str) != "1.0":
        raise ValueError("an event is not a CloudEvent of version 1.0")
    for name in _REQUIRED:
        if not _read(attributes, name, str):
            raise ValueError(f"an event has no {name}")
    known = {"specversion", *_REQUIRED, "subject", "time", "data"}
    return ReceivedEvent(
        id=_read(attributes, "id", str),
        source=_read(attributes, "source", str),
        type=_read(attributes, "type", str),
        subject=_read(attributes, "subject", str | None),
        time=_read(attributes, "time", _TIME),
        content=bytes(attributes.get("data", b"null")),
        extensions={
            name: _read(attributes, name, _SCALAR)
            for name, value in attributes.items()
            if name not in known and bytes(value) != b"null"
        },
        token=token,
    )


_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def _read(attributes: Mapping[str, msgspec.Raw], name: str, kind: Any) -> Any:
    """Return an attribute, or None if it is not there. Raises ValueError."""
    if (value := attributes.get(name)) is None:
        return None
    try:
        return msgspec.json.decode(value, type=kind)
    except msgspec.DecodeError:
        raise ValueError(f"the attribute {name!r} of an event has a wrong type") from None

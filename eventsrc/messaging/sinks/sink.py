"""What a sink is: a service that takes messages in batches, and says of each whether it has taken it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import NamedTuple, Protocol

from ...errors import StoreError, StoreRejected, StoreUnavailable, Throttled

_TEXT_OF_NONCHARACTERS = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
_MAX_KEY = 128  # characters


class Message(NamedTuple):
    """An event to send. `body` is the CloudEvent as JSON; `id` is its id. Both are the same in each attempt."""

    stream: str  # in the store; not to be sent
    group: str  # the stream, or the commit if the stream is hidden: messages of a group keep their order
    id: str
    source: str
    type: str
    body: bytes

    @property
    def text(self) -> str:
        """The body as a text that every service takes: SQS refuses two characters, which JSON can write otherwise."""
        return self.body.decode().translate(_TEXT_OF_NONCHARACTERS)

    @property
    def deduplication_key(self) -> str:
        """A key that no other event of any source has."""
        return to_key(f"{self.source}#{self.id}")

    @property
    def group_key(self) -> str:
        """A key that the messages of a group have, and no other ones."""
        return to_key(f"{self.source}#{self.group}")


class Refusal(NamedTuple):
    """A message of a batch was not taken. If it `is_final`, it will be refused again."""

    code: str
    is_final: bool


class Sink(Protocol):
    """A service that takes messages.

    - `max_messages` and `max_batch_bytes` limit a batch, and `max_bytes` one message, each counted as `size_of` does.
    - `is_ordered`: the service keeps the order of a group. At most one message of a stream is then in a batch, because
      a batch can be taken in part.
    """

    @property
    def max_messages(self) -> int: ...

    @property
    def max_bytes(self) -> int: ...

    @property
    def max_batch_bytes(self) -> int: ...

    @property
    def is_ordered(self) -> bool: ...

    def size_of(self, message: Message) -> int:
        """Return the bytes that the service counts for a message."""
        ...

    async def send(self, messages: Sequence[Message]) -> Sequence[Refusal | None]:
        """Send a batch. Return for each message None if it was taken, or its refusal.

        Raises:
            Throttled, StoreUnavailable: some of them may have been taken; send all again.
            StoreRejected: none was taken, and the service will refuse them again.
            Exception: any other error is a failure of the streams of these messages. They are tried again, and after
                the processor's `attempts` parked.
        """
        ...


def to_key(text: str) -> str:
    """Return a text of up to 128 visible ASCII characters: this one, or its hash if it is another kind of text."""
    if len(text) <= _MAX_KEY and text.isascii() and text.isprintable() and " " not in text:
        return text
    return sha256(text.encode()).hexdigest()


def is_passing(code: str) -> bool:
    """Whether an error of AWS passes by itself: it throttles, or has failed inside."""
    return any(
        part in code for part in ("Throttl", "Exceeded", "Internal", "Unavailable", "SlowDown", "TooManyRequests")
    )


@asynccontextmanager
async def aws_errors() -> AsyncIterator[None]:
    """Raise errors of the SDK as those of this library, without what they quote."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )

    failure: StoreError
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "")) or "unknown"
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if is_passing(code) or status == 429:
            failure = Throttled(f"the sink answered {code}")
        elif status >= 500:
            failure = StoreUnavailable(f"the sink answered {status} {code}")
        else:
            failure = StoreRejected(code, "the sink refuses the request; check its name, its region and the rights")
    except (NoCredentialsError, PartialCredentialsError, ParamValidationError) as error:
        failure = StoreRejected(type(error).__name__, "the sink cannot be asked; check the settings of its client")
    except (BotoCoreError, OSError) as error:  # TimeoutError is an OSError
        failure = StoreUnavailable(f"the sink gave no usable answer ({type(error).__name__})")
    else:
        return
    raise failure  # outside the handlers: an error of the SDK may hold the request

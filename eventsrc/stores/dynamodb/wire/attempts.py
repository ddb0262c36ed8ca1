"""What a client of the SDK has done for the call that is running in this context."""

from __future__ import annotations

from contextvars import ContextVar


class Attempts:
    """The number of times that the SDK has begun to send the request of a call."""

    count = 0
    are_counted = False  # the client may be an imitation, which does not emit the SDK's events
    is_waiting = False  # for a connection, as `ObservedSession` reports; other sessions do not report it

    @property
    def is_nothing_sent(self) -> bool:
        """Whether provably nothing of the request was sent."""
        return self.are_counted and (not self.count or (self.count == 1 and self.is_waiting))


running: ContextVar[Attempts | None] = ContextVar("attempts", default=None)


def note_call(**_: object) -> None:
    if (attempts := running.get()) is not None:
        attempts.are_counted = True


def count_attempt(**_: object) -> None:
    if (attempts := running.get()) is not None:
        attempts.count += 1


def note_waiting(is_waiting: bool) -> None:
    if (attempts := running.get()) is not None:
        attempts.is_waiting = is_waiting

"""The events of the checks, and how a check makes a handler fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ....aggregates.codec import Codec, join, pack
from ....aggregates.event import Event, tag_of
from ....processing.slice import Context
from ....store import Commit
from ..samples import make_commit


class Happened(Event, tag="contract.happened"):
    """The event that the handler takes."""

    number: int


class Ignored(Event, tag="contract.ignored"):
    """An event that no handler takes."""


class Trouble(Exception):
    """What `interfere` raises."""


class Script:
    """What happens in the handler calls for some streams, and which calls there were."""

    def __init__(self) -> None:
        self.failing: set[str] = set()  # ids of events whose handler fails
        self.calls: list[Context] = []
        self.act: Callable[[], None] | None = None  # called in each handler call

    def call(self, context: Context) -> None:
        self.calls.append(context)
        if self.act is not None:
            self.act()
        if context.id in self.failing:
            raise Trouble(f"the handler of {context.id} fails, as the check wants it")


_scripts: dict[str, Script] = {}  # by stream; handlers may run in any thread


def follow(stream: str, script: Script) -> None:
    """Let the handlers of a stream do what the script says."""
    _scripts[stream] = script


def interfere(context: Context) -> None:
    """Raise an error if a check wants the handler to fail. Call this at the end of the handler, when it has written.

    It may be called in any thread.
    """
    if (script := _scripts.get(context.stream)) is not None:
        script.call(context)


_codec = Codec([Happened, Ignored], {})


def make_commits(
    stream: str, count: int, *, first: int = 1, events: int = 1, ignored: bool = False
) -> Sequence[Commit]:
    """Return commits with the versions from `first`, each with so many events."""
    return [_make_commit(stream, version, events, ignored) for version in range(first, first + count)]


def _make_commit(stream: str, version: int, count: int, ignored: bool) -> Commit:
    events: list[Event] = [Ignored() if ignored else Happened(number=number) for number in range(count)]
    body = join([_codec.encode(event)[0] for event in events])
    tags = (tag_of(type(events[0])),)
    now = time.time_ns() // 1000
    return make_commit(
        stream, version, events=count, tags=tags, payload=pack(body, stream, version), time=now + version
    )


def make_unreadable(stream: str, version: int) -> Commit:
    """Return a commit whose event cannot be read."""
    body = join([b"\xc1"])
    return make_commit(stream, version, tags=(tag_of(Happened),), payload=pack(body, stream, version))


def ids_of(commits: Sequence[Commit]) -> list[str]:
    """Return the ids of all events of these commits, as a context has them."""
    return [Context(commit, index, muted=False).id for commit in commits for index in range(commit.events)]

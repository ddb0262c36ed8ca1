"""What checks do with a projection: make objects, give them slices as a processor does, look at the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from ....errors import Fenced, StoreError
from ....processing.checkpoints.checkpoints import Checkpoints, Slot
from ....processing.checkpoints.memory import MemoryCheckpoints
from ....processing.processor import Processor
from ....processing.projections.projection import Guarantee, Projection
from ....processing.slice import Fence, HandlerFailed, Position, PositionMoved, Slice
from ....store import Commit
from ....stores.memory import MemoryStore
from ..check import expect, expect_equal
from ..samples import fresh_stream
from .events import Script, follow, ids_of

FENCE = Fence(0, 1)
TIMEOUT = 20.0  # seconds that a handler may take


class Desk:
    """One projection and its checkpoints, a store, and a script for the handler. Use it as `async with`."""

    def __init__(
        self,
        make: Callable[[], Projection],
        read: Callable[[Any, str], Awaitable[Sequence[str]]],
        checkpoints: Checkpoints | None,
    ) -> None:
        self._make, self._read, self._given = make, read, checkpoints
        self.checkpoints = checkpoints if checkpoints is not None else MemoryCheckpoints()
        self.store, self.script = MemoryStore(), Script()

    async def __aenter__(self) -> Self:
        await self.store.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.store.aclose()

    def make(self, version: int = 1) -> Projection:
        """Return a new object with this version, as another process has it. It is not bound yet."""
        made = self._make()
        vars(made)["version"] = version
        return made

    async def prepare(self, version: int = 1) -> Projection:
        """Return a new object with this version that is ready to handle slices."""
        made = self.make(version)
        made.bind(self.checkpoints, self.store, handler_timeout=TIMEOUT)
        await made.prepare()
        return made

    def make_processor(self, projection: Projection) -> Processor[Projection]:
        """Return a processor that tries each handler once."""
        given = None if projection.guarantee is Guarantee.MEMORY else self.checkpoints
        return Processor(projection, self.store, given, attempts=1, handler_timeout=TIMEOUT)

    def stream(self, name: str = "") -> str:
        """Return a stream that follows the script; by default one that does not exist yet."""
        stream = name or fresh_stream()
        follow(stream, self.script)
        return stream

    async def claim(self, projection: Projection, epoch: int) -> None:
        """Claim the slot of all streams, so that fences with other epochs are stale."""
        await self.checkpoints.claim(projection.name, Slot(number=0, of=1, epoch=epoch, owner=f"w-{epoch}", open=True))

    def confirming(self, projection: Projection, run: Slice) -> Slice:
        """Return a slice whose `confirm` looks at the slot, as that of a processor does."""

        async def confirm() -> None:
            for slot in await self.checkpoints.slots(projection.name):
                if slot.number == run.fence.slot and slot.epoch != run.fence.epoch:
                    raise Fenced(projection.name, slot.number)

        return run._replace(confirm=confirm)

    async def apply(self, projection: Projection, *runs: Slice) -> dict[str, Exception]:
        """Give slices to a projection in the parts that it takes. Return the errors by stream."""
        if projection.in_batches:
            return await _apply(projection, runs)
        errors: dict[str, Exception] = {}
        for run in runs:
            size = 1 if projection.one_by_one else len(run.commits)
            for start in range(0, len(run.commits), size):
                if run.stream not in errors:
                    errors |= await _apply(projection, [run.part(start, start + size)])
        return errors

    async def handle(self, projection: Projection, *runs: Slice) -> None:
        """Give slices to a projection. None of them may fail."""
        expect_equal(await self.apply(projection, *runs), {}, "the failures")

    async def read(self, projection: Projection, stream: str) -> list[str]:
        return list(await self._read(projection, stream))

    async def position(self, projection: Projection, stream: str) -> Position | None:
        return (await projection.positions([stream])).get(stream)

    async def expect_handled(self, projection: Projection, stream: str, commits: Sequence[Commit], when: str) -> None:
        """Check that exactly the events of these commits were handled, and that the position is after the last one."""
        expect_equal(await self.read(projection, stream), ids_of(commits), f"the events in the read model {when}")
        await self.expect_position(projection, stream, commits, when)

    async def expect_position(self, projection: Projection, stream: str, commits: Sequence[Commit], when: str) -> None:
        """Check that the position is that of the last one of these commits; none if there are none."""
        expected = make_slice(commits).position if commits else None
        expect_equal(await self.position(projection, stream), expected, f"the position {when}")


def make_slice(
    commits: Sequence[Commit], fence: Fence = FENCE, *, is_first: bool | None = None, muted: bool = False
) -> Slice:
    """Return a slice of these commits; by default it is the first one if it begins with version 1."""
    after = commits[0].version - 1
    return Slice(commits[0].stream, after, commits, fence, muted, after == 0 if is_first is None else is_first)


async def _apply(projection: Projection, runs: Sequence[Slice]) -> dict[str, Exception]:
    try:
        failures = await projection.apply(runs)
    except (Fenced, StoreError, PositionMoved) as error:  # of all slices
        expect(not isinstance(error, PositionMoved), "apply raised PositionMoved; return it in a Failure")
        return {run.stream: error for run in runs}
    found = {failure.run.stream: failure.error for failure in failures}
    expect(found.keys() <= {run.stream for run in runs}, "a Failure has a slice of another stream")
    return found


def expect_failure(errors: dict[str, Exception], stream: str, wanted: type[Exception], what: str) -> Exception:
    """Return the error of a stream, which must be of this class, and the only one."""
    found = errors.get(stream)
    expect(isinstance(found, wanted), f"{what} failed with {found!r}, expected {wanted.__name__}")
    expect_equal(list(errors), [stream], "the streams that failed")
    assert found is not None
    return found


def expect_handler_failed(errors: dict[str, Exception], stream: str, wanted: type[Exception], what: str) -> None:
    """Check that a stream, and no other, failed with HandlerFailed that holds an error of this class."""
    failed = expect_failure(errors, stream, HandlerFailed, what)
    inner = getattr(failed, "error", None)
    expect(isinstance(inner, wanted), f"HandlerFailed.error is {inner!r}, expected {wanted.__name__}")

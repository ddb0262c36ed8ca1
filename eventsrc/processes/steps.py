"""The steps of processes: take an event in, issue a command, call a service, handle a timer. Each is one commit."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from ..aggregates.codec import Codec
from ..aggregates.declaration import declaration_of, event_types, read_hints
from ..aggregates.event import Event
from ..concurrency import load_all
from ..errors import AggregateNotFound, CommandRefused, DeclarationError
from ..processing.projections.issuing import EffectContext, read_version
from ..repository.repository import Repository
from ..stream_id import category_of
from ..trace_context import enter, trace
from .arguments import decode_arguments
from .deciding import Since, VersionsMissing, codec_of, fire_timer, take_event, take_outcome, take_timer
from .events import Answered, CallRequested, CommandRequested, Done, Refused, TimerFired
from .process import Input, Process

PR = TypeVar("PR", bound=Process)

Service = Callable[[Any, str], Awaitable[Event | None]]
"""An async function from a request, an event, and an idempotency key to an answer: an event, or None."""

_READS = 8  # versions that are read at a time


class ServiceRefused(Exception):
    """A service raises it to refuse a call for good; its text is the reason. Other errors are retried."""


class Steps(Generic[PR]):
    """The steps of the processes of one class."""

    def __init__(
        self,
        process: Repository[PR],
        targets: Sequence[Repository[Any]],
        services: Mapping[str, Service],
        clock: Callable[[], int],
    ) -> None:
        self.repository, self._clock = process, clock
        self._kind: type[PR] = process.aggregate_class
        self._targets = {declaration_of(each.aggregate_class).category: each for each in targets}
        self._services = {name: _read_service(name, each) for name, each in services.items()}

    async def take_event(self, event: Event, context: EffectContext, source: str) -> None:
        """Take in an event of another stream, if it is for a process."""
        given = self._to_input(context, round(context.commit.time), source)
        key = self._kind.key(event, given)
        if key is not None:
            await self._step(key, take_event, event, given, create=True)

    async def take_timer(self, fired: TimerFired, context: EffectContext) -> None:
        """Handle the event of a timer that has fired."""
        await self._step(_id_of(context), take_timer, fired, self._to_input(context, fired.at))

    async def fire(self, stream: str, name: str, number: int) -> None:
        """Record that a timer is due."""
        try:
            await self.repository.execute(stream.partition("-")[2], fire_timer, name, number, self._clock())
        except AggregateNotFound:
            return  # the store was restored to a time before it

    async def issue(self, asked: CommandRequested, context: EffectContext) -> None:
        """Issue a command, and take in its outcome."""
        repository = self._find_target(asked.category)
        method = getattr(repository.aggregate_class, asked.name, None)
        if method is None:
            raise RuntimeError(
                f"{repository.aggregate_class.__qualname__} has no method {asked.name!r}, which a process asked for; "
                "keep it, under this name, until no process asks for it any more"
            )
        args, kwargs = decode_arguments(method, asked.args, asked.kwargs)
        names: Any = {"number": asked.number, "category": asked.category, "id": asked.id, "name": asked.name}
        executor = repository.executor(
            command_id=f"{context.stream}:{asked.number}", since=asked.since, create=asked.create, final=True
        )
        outcome: Done | Refused
        try:
            receipt = (await executor.execute(asked.id, method, *args, **kwargs)).receipt
            stream, version, is_stored = receipt.stream, receipt.version, receipt.commit_id is not None
            outcome = Done(**names, version=version)
        except CommandRefused as refused:
            stream, version, is_stored = refused.stream, refused.version, refused.version > 0
            outcome = Refused(**names, error=refused.error, reason=refused.reason)
        causes = [context.id, f"{stream}@{version}"] if is_stored else [context.id]
        with trace(causation_id=causes):
            await self._take_outcome(context, outcome)

    async def call(self, asked: CallRequested, context: EffectContext) -> None:
        """Call a service, and take in its answer."""
        if (found := self._services.get(asked.service)) is None:
            raise RuntimeError(f"there is no service {asked.service!r}; give it to ProcessManager(services=...)")
        service, codec = found
        outcome: Answered | Refused
        try:
            answer = await service(codec.decode_event(asked.request), f"{context.stream}:{asked.number}")
            body = codec_of(self._kind).encode(answer)[0] if answer is not None else None
            outcome = Answered(number=asked.number, service=asked.service, answer=body)
        except ServiceRefused as refused:
            names: Any = {"number": asked.number, "category": asked.service, "id": "", "name": ""}
            outcome = Refused(**names, error=type(refused).__name__, reason=str(refused))
        await self._take_outcome(context, outcome)

    async def _take_outcome(self, context: EffectContext, outcome: Done | Refused | Answered) -> None:
        await self._step(_id_of(context), take_outcome, outcome, self._to_input(context, self._clock()))

    async def _step(
        self, key: str, decide: Callable[..., object], what: Event, given: Input, *, create: bool = False
    ) -> None:
        """Let the process decide, in one commit. It is called again with the versions of the aggregates it commands.

        If it has waited for more since an earlier input, that is a cause of what it does now, too.
        """
        since: Since = {}
        executor = self.repository.executor(create=create)

        def take(process: PR) -> None:
            waited = process.instance.waited
            enter(outer)
            decide(process, what, given, since)
            if waited and process.instance.waited != waited:
                causes = (*outer.causation_ids, f"{process.stream}@{waited}")
                enter(msgspec.structs.replace(outer, causation_ids=causes))

        with trace() as outer:
            while True:
                try:
                    await executor.execute(key, take)
                except VersionsMissing as missing:
                    since = {**since, **await self._read_versions(missing.targets)}
                else:
                    return

    async def _read_versions(self, targets: Sequence[tuple[str, str]]) -> Since:
        async def read(target: tuple[str, str]) -> int:
            return await read_version(self._find_target(target[0]), target[1])

        return await load_all(read, targets, _READS)

    def _find_target(self, category: str) -> Repository[Any]:
        if (found := self._targets.get(category)) is None:
            raise RuntimeError(
                f"{self._kind.__qualname__} asks for a command of {category!r}, and there is no repository for it; "
                "give one to ProcessManager(targets=...)"
            )
        return found

    def _to_input(self, context: EffectContext, time: int, source: str = "") -> Input:
        place = (context.commit.version, context.index, context.part)
        return Input(context.id, context.stream, place, time, source)


def _id_of(context: EffectContext) -> str:
    return context.stream.removeprefix(f"{category_of(context.stream)}-")


def _read_service(name: str, service: Service) -> tuple[Service, Codec]:
    """Return a service with the codec of its requests. Raises DeclarationError if its annotations do not say them."""
    function: Any = getattr(service, "__func__", service)
    parameters = list(inspect.signature(service).parameters.values())
    if not inspect.iscoroutinefunction(function) or len(parameters) != 2:
        raise DeclarationError(name, "is not a service; write async def service(request: X, key: str) -> Y | None")
    hint = read_hints(function).get(parameters[0].name)
    return service, Codec(event_types(hint, function, parameters[0].name), {})

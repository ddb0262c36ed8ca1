"""The steps of processes: take an event in, issue a command, call a service, handle a timer. Each is one commit."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import NoneType
from typing import Any, Generic, TypeVar, cast

import msgspec

from ..aggregates.annotations import expand_union
from ..aggregates.codec import Codec
from ..aggregates.declaration import declaration_of, event_types, read_hints
from ..aggregates.event import Event
from ..concurrency import load_all
from ..errors import AggregateNotFound, CommandRefused, DeclarationError, kind_of
from ..log import log
from ..processing.projections.issuing import EffectContext, read_version
from ..repository.repository import Repository
from ..stores.feed import Feed
from ..stream_id import category_of
from ..trace_context import TraceContext, enter, trace
from .arguments import decode_arguments
from .deciding import (
    Known,
    Taken,
    VersionsMissing,
    codec_of,
    fire_timer,
    is_pending,
    take_event,
    take_held,
    take_outcome,
    take_timer,
)
from .events import Answered, CallRequested, CommandRequested, Done, Refused, TimerFired
from .handlers import handlers_of
from .process import Input, Process

PR = TypeVar("PR", bound=Process)

Service = Callable[[Any, str], Awaitable[Event | None]]
"""An async function from a request, an event, and an idempotency key to an answer: an event, or None."""

_READS = 8  # versions that are read at a time
_ROUNDS = 10  # of a decision


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
        self._origin = ""
        for each in cast(Sequence[object], targets):
            if not isinstance(each, Repository):
                raise TypeError(f"{kind_of(each)}, given as a target, is not a repository; write Repository(X, store)")
        self._targets = {declaration_of(each.aggregate_class).category: each for each in targets}
        if len(self._targets) < len(targets):
            raise ValueError("two targets have one category, so it is not known which one is meant; give one of them")
        self._services = {name: _read_service(name, each, self._kind) for name, each in services.items()}

    async def take_event(self, event: Event, context: EffectContext, source: str) -> None:
        """Take in an event of another stream, if it is for a process. Events that were held come first."""
        if category_of(context.stream) == declaration_of(self._kind).category:
            return  # what processes record is theirs, and not an input
        given = self._to_input(context, context.commit.time, source)
        if (key := self._kind.key(event, given)) is None:
            return
        while (taken := await self._step(key, take_event, event, given, create=True)).held:
            while taken.held:
                taken = await self._step(key, take_held)

    async def take_timer(self, fired: TimerFired, context: EffectContext) -> None:
        """Handle the event of a timer that has fired."""
        await self._step(_id_of(context), take_timer, fired, self._to_input(context, fired.at))

    async def fire(self, stream: str, name: str, number: int, now: int) -> None:
        """Record that a timer is due."""
        try:
            await self.repository.execute(stream.partition("-")[2], fire_timer, name, number, now)
        except AggregateNotFound:
            return  # the store was restored to a time before it

    async def issue(self, asked: CommandRequested, context: EffectContext) -> None:
        """Issue a command, and take in its outcome."""
        if not await self._is_pending(context, asked.number):
            return
        repository = self._find_target(asked.category)
        method = getattr(repository.aggregate_class, asked.name, None)
        if method is None:
            raise RuntimeError(
                f"{repository.aggregate_class.__qualname__} has no method {asked.name!r}, which a process asked for; "
                "keep it, under this name, until no process asks for it any more"
            )
        try:
            args, kwargs = decode_arguments(method, asked.args, asked.kwargs)
        except (TypeError, msgspec.MsgspecError) as error:
            raise RuntimeError(
                f"{repository.aggregate_class.__qualname__}.{asked.name} does not take the arguments that a process "
                f"has stored: {error}; keep names and types of parameters until no process asks for it any more"
            ) from None
        names: Any = {"number": asked.number, "category": asked.category, "id": asked.id, "name": asked.name}
        content = asked.name, asked.args, asked.kwargs  # as stored: the code may have changed since
        executor = repository.executor(
            command_id=asked.command_id, since=asked.since, create=asked.create, final=True, content=content
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
        if not await self._is_pending(context, asked.number):
            return
        if (found := self._services.get(asked.service)) is None:
            raise RuntimeError(f"there is no service {asked.service!r}; give it to ProcessManager(services=...)")
        service, codec = found
        outcome: Answered | Refused
        try:
            answer = await service(codec.decode_event(asked.request), asked.key)
            body = codec_of(self._kind).encode(answer)[0] if answer is not None else None
            outcome = Answered(number=asked.number, service=asked.service, answer=body)
        except ServiceRefused as refused:
            names: Any = {"number": asked.number, "category": asked.service, "id": "", "name": ""}
            outcome = Refused(**names, error=type(refused).__name__, reason=str(refused))
        await self._take_outcome(context, outcome)

    async def _is_pending(self, context: EffectContext, number: int) -> bool:
        """Whether the outcome is not known yet: a command that was refused is not issued again, as after a restore."""
        return await self.repository.execute(_id_of(context), is_pending, number)

    async def _take_outcome(self, context: EffectContext, outcome: Done | Refused | Answered) -> None:
        taken = await self._step(_id_of(context), take_outcome, outcome, self._to_input(context, self._clock()))
        if isinstance(outcome, Refused):
            what = f"{outcome.category}.{outcome.name} of {outcome.id}" if outcome.name else outcome.category
            if taken.has_ended:
                lost = "%s: %s was refused with %s after the process had ended, so no handler knows"
                log.warning(lost, context.stream, what, outcome.error)
            else:
                log.info("%s: %s was refused with %s", context.stream, what, outcome.error)

    async def _step(self, key: str, decide: Callable[..., Taken], *given: Any, create: bool = False) -> Taken:
        """Let the process decide, in one commit. It is called again with the versions of the aggregates it commands.

        If it has waited since an earlier input, or handles one that was held, that is a cause of the commit, too.

        Raises RuntimeError if it asks for commands of other aggregates each time.
        """
        known = Known(origin=await self._read_origin(), services=frozenset(self._services))
        executor = self.repository.executor(create=create)
        with trace() as outer:
            for _ in range(_ROUNDS):
                try:
                    executed = await executor.execute(key, _with_causes(decide, outer), *given, known)
                except VersionsMissing as missing:
                    versions = {**known.versions, **await self._read_versions(missing.targets)}
                    known = known._replace(versions=versions)
                else:
                    return executed.result or Taken()
        raise RuntimeError(
            f"{self._kind.__qualname__} asks for commands of other aggregates each time its handler is called; make "
            "their ids of those of the process or of the event, and not at random"
        )

    async def _read_origin(self) -> str:
        """Return a text that names the store of the processes, in the ids of what they ask for."""
        store = self.repository.store
        if not self._origin and isinstance(store, Feed):
            self._origin = await store.identity()
        return self._origin

    async def _read_versions(self, targets: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], int]:
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


def _with_causes(decide: Callable[..., Taken], outer: TraceContext) -> Callable[..., Taken]:
    """Return a decision whose commit has these causes, and those that the process knows."""

    def decide_with_causes(process: Process, *given: Any) -> Taken:
        waited = process.instance.waited
        enter(outer)
        taken = decide(process, *given)
        has_waited = waited and process.instance.waited != waited
        known = [taken.cause] if taken.cause else []
        known += [f"{process.stream}@{waited}"] if has_waited else []
        enter(msgspec.structs.replace(outer, causation_ids=(*outer.causation_ids, *known)))
        return taken

    return decide_with_causes


def _id_of(context: EffectContext) -> str:
    return context.stream.removeprefix(f"{category_of(context.stream)}-")


def _read_service(name: str, service: Service, process: type[Process]) -> tuple[Service, Codec]:
    """Return a service with the codec of its requests. Raises DeclarationError if its annotations do not say them, or
    if the process does not handle its answers.
    """
    function: Any = getattr(service, "__func__", service)
    parameters = list(inspect.signature(service).parameters.values())
    if not inspect.iscoroutinefunction(function) or len(parameters) != 2:
        raise DeclarationError(name, "is not a service; write async def service(request: X, key: str) -> Y | None")
    hints = read_hints(function)
    answers = [each for each in expand_union(hints.get("return", NoneType)) if each not in (NoneType, Any)]
    for answer in answers:
        if answer not in handlers_of(process).by_type:
            kind, shown = process.__qualname__, getattr(answer, "__qualname__", answer)
            raise DeclarationError(name, f"answers with {shown}, which {kind} does not handle; write an on_* method")
    return service, Codec(event_types(hints.get(parameters[0].name), function, parameters[0].name), {})

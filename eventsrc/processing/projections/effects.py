"""Effects outside: mails, payments, calls of other services."""

from __future__ import annotations

from collections.abc import Sequence

from ...store import Store
from ..checkpoints.checkpoints import Checkpoints
from ..slice import Fence, Slice
from .calling import call_handler
from .issuing import EffectContext, Issuing
from .projection import Failure, Guarantee, Projection, catch


class Effects(Projection):
    """Effects outside: mails, payments, calls of other services. Handlers may be async.

    The position is written after the effect, as the two cannot be in one transaction. So each effect happens at least
    once. Pass `context.id` on as the idempotency key: a service that knows such keys then acts exactly once. Commands
    are applied exactly once by `await context.execute(repository, id, command, ...)`: see EffectContext.

    - Streams are handled concurrently, `concurrency` at a time.
    - A plain handler runs in a thread of its own, so it may block, as `requests.post` does. It must not use objects of
      the event loop, and it may run at the same time as handlers of other streams.
    - A handler that exceeds the processor's `handler_timeout` fails. A coroutine is cancelled; a thread cannot be
      ended, and continues to run while the event is tried again.
    - Before each call the worker makes sure that its slot was not taken over.
    """

    guarantee = Guarantee.KEY
    awaits = True
    one_by_one = True

    _issuing: Issuing

    def bind(self, checkpoints: Checkpoints, store: Store, *, handler_timeout: float = 30.0) -> None:
        super().bind(checkpoints, store, handler_timeout=handler_timeout)
        self._issuing = Issuing(self.tag, store)

    async def reset(self, stream: str, fence: Fence) -> None:
        """Raise TypeError: effects outside cannot be undone."""
        raise TypeError(f"{type(self).__qualname__} has effects outside, which would happen again; act by hand instead")

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        [run] = runs
        return await catch(run, self._handle(run))

    async def _handle(self, run: Slice) -> None:
        for index, commit in enumerate(run.commits):
            attempt = 1 if index else run.attempt
            for call in () if run.muted else self._read_calls((commit,)):
                await run.confirm()
                context = EffectContext(commit, call.event_index, False, self._issuing)
                timeout, outages = self._handler_timeout, self.outages
                await call_handler(self, call, context, timeout, attempt=attempt, in_thread=True, outages=outages)
            await self._checkpoints.advance(self.name, run.part(index, index + 1))

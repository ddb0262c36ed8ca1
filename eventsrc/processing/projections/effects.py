"""Effects outside: mails, payments, calls of other services."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isawaitable

from ...store import Commit
from ..slice import Context, HandlerFailed, Slice
from .projection import Failure, Guarantee, Projection, side_by_side


class Effects(Projection):
    """Effects outside: mails, payments, calls of other services. Handlers may be async.

    The position is written after the effect, as the two cannot be in one transaction. So each effect happens at least
    once. Pass `context.id` on as the idempotency key: a service that knows such keys then acts exactly once. Streams
    are handled concurrently, `concurrency` at a time.
    """

    guarantee = Guarantee.KEY
    awaits = True

    async def apply(self, runs: Sequence[Slice]) -> Sequence[Failure]:
        return await side_by_side(runs, self._handle, self._semaphore)

    async def _handle(self, run: Slice) -> None:
        for commit in run.commits:
            if not run.muted:
                await self._call(commit)
            await self._checkpoints.advance(self.name, run._replace(after=commit.version - 1, commits=(commit,)))

    async def _call(self, commit: Commit) -> None:
        try:
            for handler, given, _, index in self._handlers.calls((commit,)):
                context = [Context(commit, index, muted=False)] if handler.with_context else []
                result = handler.call(self, given, *context)
                if isawaitable(result):
                    await result
        except Exception as error:
            raise HandlerFailed(error) from error

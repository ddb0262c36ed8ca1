"""The contract that all kinds of projections keep, as checks for authors of kinds. No test framework is needed.

Write a projection of your kind whose handler adds `context.id` to the read model, and then calls `interfere(context)`,
which raises an error where a check wants a handler that fails:

```python
class Log(MyProjection, tag="log"):
    async def handle_happened(self, event: Happened, context: MyContext) -> None:
        await context.db.execute("INSERT INTO log (stream, event) VALUES (?, ?)", context.stream, context.id)
        interfere(context)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench[Log]]:
    async with MyCheckpoints(url_of_a_new_database()) as checkpoints:
        yield Bench(Log, read_log, checkpoints)


await check_projection(bench)  # the whole contract
```

or, with pytest, a test for each promise:

```python
@pytest.mark.parametrize("check", CONTRACT, ids=str)
async def test_contract(check: Check) -> None:
    await check(bench)
```

Each bench begins with nothing: neither read model nor checkpoints. A broken promise is an AssertionError that names the
promise. If the kind lacks a capability, this must be declared with `without=`; see `Capability`.
"""

from __future__ import annotations

from collections.abc import Collection

from . import dropping, failing, fencing, handling
from .check import Bench, Capability, Check, MakeBench
from .events import Happened, interfere

__all__ = [
    "CONTRACT",
    "Bench",
    "Capability",
    "Check",
    "Happened",
    "MakeBench",
    "check_projection",
    "interfere",
]

CONTRACT: tuple[Check, ...] = (*handling.CHECKS, *failing.CHECKS, *fencing.CHECKS, *dropping.CHECKS)


async def check_projection(make_bench: MakeBench, *, without: Collection[Capability] = ()) -> None:
    """Run the whole contract.

    Raises:
        AssertionError: a promise is broken. The other promises are not checked then.
    """
    for check in CONTRACT:
        await check(make_bench, without=without)

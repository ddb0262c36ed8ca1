"""The contract that every store keeps, as checks for the authors of stores. No test framework is needed.

```python
await check_store(lambda: MyStore(url))                       # all of it
```

or, with pytest, a test for each promise:

```python
@pytest.mark.parametrize("check", CONTRACT, ids=str)
async def test_contract(check: Check) -> None:
    await check(lambda: MyStore(url))
```

The factory makes stores that are not open yet; the checks open and close them. Whether all share one set of data or
each starts empty is up to the factory: every check works on streams of its own. A broken promise is an
AssertionError that says which promise it was. What a store cannot do it must declare (`without=`), see `Capability`.
"""

from __future__ import annotations

from collections.abc import Collection

from . import appends, feeds, life, races, reads, refusals, snapshots
from .check import Capability, Check, MakeStore

__all__ = ["CONTRACT", "Capability", "Check", "MakeStore", "check_store"]

CONTRACT: tuple[Check, ...] = (
    *appends.CHECKS,
    *races.CHECKS,
    *refusals.CHECKS,
    *reads.CHECKS,
    *snapshots.CHECKS,
    *life.CHECKS,
    *feeds.CHECKS,
)


async def check_store(make_store: MakeStore, *, without: Collection[Capability] = ()) -> None:
    """Run the whole contract. Raises AssertionError at the first promise that is broken."""
    for check in CONTRACT:
        await check(make_store, without=without)

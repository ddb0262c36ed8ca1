"""The contract that every store keeps, as checks for authors of stores. No test framework is needed.

```python
await check_store(lambda: MyStore(url))  # the whole contract
```

or, with pytest, a test for each promise:

```python
@pytest.mark.parametrize("check", CONTRACT, ids=str)
async def test_contract(check: Check) -> None:
    await check(lambda: MyStore(url))
```

The factory makes stores that are not open yet; the checks open and close them. The stores may share data or start
empty: every check uses its own streams. A broken promise is an AssertionError that names the promise. If a store lacks
a capability, this must be declared with `without=`; see `Capability`.

`checkpoints` has the contract of checkpoints, and `projections` that of kinds of projections.
"""

from __future__ import annotations

from collections.abc import Collection

from . import appends, checkpoints, feeds, life, lookups, projections, races, reads, refusals, snapshots, transactions
from .check import Capability, Check, MakeStore

__all__ = ["CONTRACT", "Capability", "Check", "MakeStore", "check_store", "checkpoints", "projections"]

CONTRACT: tuple[Check, ...] = (
    *appends.CHECKS,
    *races.CHECKS,
    *refusals.CHECKS,
    *reads.CHECKS,
    *snapshots.CHECKS,
    *life.CHECKS,
    *feeds.CHECKS,
    *lookups.CHECKS,
    *transactions.CHECKS,
)


async def check_store(make_store: MakeStore, *, without: Collection[Capability] = ()) -> None:
    """Run the whole contract.

    Raises:
        AssertionError: a promise is broken. The other promises are not checked then.
    """
    for check in CONTRACT:
        await check(make_store, without=without)

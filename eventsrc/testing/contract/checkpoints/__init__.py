"""The contract that all checkpoints keep, as checks for authors of checkpoints. No test framework is needed.

```python
await check_checkpoints(lambda: MyCheckpoints(url))  # the whole contract
```

or, with pytest, a test for each promise:

```python
@pytest.mark.parametrize("check", CONTRACT, ids=str)
async def test_contract(check: Check) -> None:
    await check(lambda: MyCheckpoints(url))
```

The factory makes checkpoints that are not open yet; the checks open and close them. All that it makes share their data,
as those of several processes do. What is stored already does not matter: every check uses its own processors. A broken
promise is an AssertionError that names the promise. If the checkpoints lack a capability, this must be declared with
`without=`; see `Capability`.
"""

from __future__ import annotations

from collections.abc import Collection

from . import entries, positions, processors, slots
from .check import Capability, Check, MakeCheckpoints

__all__ = ["CONTRACT", "Capability", "Check", "MakeCheckpoints", "check_checkpoints"]

CONTRACT: tuple[Check, ...] = (*positions.CHECKS, *slots.CHECKS, *entries.CHECKS, *processors.CHECKS)


async def check_checkpoints(make_checkpoints: MakeCheckpoints, *, without: Collection[Capability] = ()) -> None:
    """Run the whole contract.

    Raises:
        AssertionError: a promise is broken. The other promises are not checked then.
    """
    for check in CONTRACT:
        await check(make_checkpoints, without=without)

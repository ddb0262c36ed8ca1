"""The protocol of the drivers of the saga: one line of JSON, `{"do": "saga", "where": folder, "count": 1000}`.

An order is placed. A process reserves its stock, an aggregate of its own for each order, and ends. Orders are placed
one after the other while the process runs; the time counts until the last process has ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any


def serve(saga: Callable[[str, int], dict[str, Any]]) -> None:
    """Answer each command with `{"cpu": seconds, "wall": seconds}`."""
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(saga(command["where"], command["count"])), flush=True)

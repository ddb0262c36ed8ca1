"""The campaigns of `make faults`: the library under faults, kills and power cuts, and its promises checked after."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]

PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
"""For processes that a campaign or its test starts: where the campaigns, the library and `support` are found."""

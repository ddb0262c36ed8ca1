"""The campaigns of `make faults`: run the library under faults, kills and power cuts, then check its promises."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]

PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
"""The PYTHONPATH of processes that a campaign or its test starts: for the campaigns, the library and `support`."""

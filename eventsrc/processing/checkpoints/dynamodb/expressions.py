"""Names and values for the expressions of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def alias(*names: str) -> dict[str, str]:
    """Return the ExpressionAttributeNames of these attributes: `#version` for `version`."""
    return {f"#{name}": name for name in names}


def to_numbers(values: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return numbers in the service's own JSON."""
    return {name: {"N": str(value)} for name, value in values.items()}

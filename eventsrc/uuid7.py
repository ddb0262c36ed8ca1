"""UUIDs of version 7, which sort by the time at which they were made."""

from __future__ import annotations

import os
import time


def uuid7() -> bytes:
    """Return 16 bytes: Unix time in ms (48 bits), then version, variant and 74 random bits (RFC 9562, section 5.7)."""
    made = bytearray(os.urandom(16))
    made[0:6] = (time.time_ns() // 1_000_000).to_bytes(6)
    made[6] = 0x70 | made[6] & 0x0F
    made[8] = 0x80 | made[8] & 0x3F
    return bytes(made)

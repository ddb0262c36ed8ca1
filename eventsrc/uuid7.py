"""UUIDs of version 7: they sort by the time they were drawn."""

from __future__ import annotations

import os
import time


def uuid7() -> bytes:
    """48 bits of Unix time in milliseconds, then version, variant and 74 random bits (RFC 9562, section 5.7)."""
    drawn = bytearray(os.urandom(16))
    drawn[0:6] = (time.time_ns() // 1_000_000).to_bytes(6)
    drawn[6] = 0x70 | drawn[6] & 0x0F
    drawn[8] = 0x80 | drawn[8] & 0x3F
    return bytes(drawn)

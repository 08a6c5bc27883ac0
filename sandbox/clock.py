"""Time on the simulated chain: a block every two seconds, so that number and time are one linear
function.

The line goes through the last block the real V1 archive indexed. Nothing here reads the wall clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

BLOCK_SECONDS = 2


class Horizon(NamedTuple):
    """Where the V1 archive ends: the last block it indexed, and its time in unix seconds."""

    block_number: int
    timestamp: int


# 2026-04-28T11:00:40Z: V1 stopped and the public subgraph with it.
HORIZON = Horizon(block_number=87_814_766, timestamp=1_777_374_040)


def block_time(number: int) -> int:
    """Timestamp of a block, unix seconds."""
    return HORIZON.timestamp + BLOCK_SECONDS * (number - HORIZON.block_number)


def block_at(timestamp: float) -> int:
    """The last block produced at or before `timestamp` (unix seconds)."""
    return HORIZON.block_number + int(timestamp - HORIZON.timestamp) // BLOCK_SECONDS


def rfc3339(micros: int) -> str:
    """Unix microseconds as the APIs write time: UTC, Z, trailing zeros of the fraction dropped."""
    moment = datetime.fromtimestamp(micros // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{micros % 1_000_000:06d}".rstrip("0")
    return f"{moment}.{fraction}Z" if fraction else f"{moment}Z"


def postgres_time(seconds: int) -> str:
    """Unix seconds in Gamma's other format, `2026-07-24 00:00:16+00` (of closedTime)."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S+00")


def iso_date(seconds: int) -> str:
    """The UTC day of a unix time, `2026-07-24`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")

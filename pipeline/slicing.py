"""Which slices a backfill consists of: pure functions of time.

The archive ends where V2 begins, so a range that spans both is read from both. Slices of one length lie on one grid,
whatever range they were cut from: two backfills that overlap share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from ingest.contracts import V1_GENESIS
from ingest.sources.slices import Slice
from pipeline.errors import SettingsError
from pipeline.settings import Settings

SOURCES = ("goldsky", "polygon")
V1_TWICE = "V1 would be read from the archive and from the chain, and each fill counted twice"  # docs/sources.md


@dataclass(frozen=True)
class Plan:
    """What a backfill reads.

    Attributes:
        slices: all of its range, cut.
        done: those that earlier backfills have read.
    """

    slices: list[Slice]
    done: set[Slice]

    @property
    def left(self) -> list[Slice]:
        """Slices still to be read."""
        return [part for part in self.slices if part not in self.done]


def sources_of(settings: Settings, asked: str | None) -> list[str]:
    """Sources that a backfill may read.

    Raises:
        SettingsError: the source that was asked for would bring V1 a second time.
    """
    v1_from_chain = "v1" in settings.polygon_versions
    if asked == "goldsky" and v1_from_chain:
        raise SettingsError(f"--source goldsky: with POLYGON_VERSIONS=v1,v2 {V1_TWICE}")
    if asked is not None:
        return [asked]
    return ["polygon"] if v1_from_chain else list(SOURCES)


def ranges(
    sources: Iterable[str], start: int, end: int, *, archive_end: int, confirmed_end: int
) -> list[Slice]:
    """The part of [start, end) that each source has, oldest first; unix seconds.

    Args:
        archive_end: first second after the archive.
        confirmed_end: first second that the chain has not confirmed.
    """
    wanted = list(sources)
    start = max(start, V1_GENESIS)  # there is nothing earlier
    found = []
    if "goldsky" in wanted:
        found.append(Slice("goldsky", start, min(end, archive_end)))
    if "polygon" in wanted:
        # With the archive in it the chain begins where that ends; alone it has all that its generations have.
        first = max(start, archive_end) if "goldsky" in wanted else start
        found.append(Slice("polygon", first, min(end, confirmed_end)))
    return [each for each in found if each.start < each.end]


def cut(whole: Slice, seconds: int) -> list[Slice]:
    """Cut a range at the multiples of `seconds` since 1970, oldest first."""
    first = (whole.start // seconds + 1) * seconds
    bounds = [whole.start, *range(first, whole.end, seconds), whole.end]
    return [Slice(whole.source, start, end) for start, end in pairwise(bounds)]


def covered(slices: Iterable[Slice], by: Iterable[Slice]) -> set[Slice]:
    """Those of `slices` of which every second lies in one of `by`, of the same source."""
    merged: list[Slice] = []
    for each in sorted(by):
        last = merged[-1] if merged else None
        if last and last.source == each.source and each.start <= last.end:
            merged[-1] = Slice(each.source, last.start, max(last.end, each.end))
        else:
            merged.append(each)
    found, position = set(), 0
    for part in sorted(slices):
        while position < len(merged) and _is_before(merged[position], part):
            position += 1
        if position < len(merged) and _holds(merged[position], part):
            found.add(part)
    return found


def _is_before(one: Slice, other: Slice) -> bool:
    return (one.source, one.end) <= (other.source, other.start)


def _holds(whole: Slice, part: Slice) -> bool:
    return whole.source == part.source and whole.start <= part.start and part.end <= whole.end


def whole_seconds(moment: datetime) -> int:
    """Unix seconds of the first whole second at or after a moment, as block times are whole seconds."""
    return math.ceil(moment.timestamp())


def at(seconds: int) -> datetime:
    """The moment of unix seconds, UTC."""
    return datetime.fromtimestamp(seconds, UTC)

"""Which slices a backfill consists of: pure functions of time.

Each source has the generations that only it has: the archive V1, the chain V2 and V3, each from its own first second on.
So both are read side by side for the weeks before the cutover in which V1 and V2 filled orders. Slices of one length lie
on one grid, whatever range they were cut from: two backfills that overlap share them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from ingest.contracts import GENESIS, V1, V2
from ingest.queue.slices import Slice
from ingest.sources import SOURCES
from pipeline.errors import SettingsError
from pipeline.settings import Settings

SLICED = tuple(sorted(source.name for source in SOURCES if source.slices))
V1_TWICE = "V1 would be read from the archive and from the chain, and each fill counted twice"  # docs/sources.md


@dataclass(frozen=True)
class Plan:
    """What a backfill reads.

    Attributes:
        slices: all of its range, cut.
        left: what is still to be read: slices of which earlier backfills have brought nothing, or not every
            generation; the latter name those that are missing.
    """

    slices: list[Slice]
    left: list[Slice]

    @property
    def done(self) -> int:
        """Number of slices that earlier backfills have read."""
        return len(self.slices) - len(self.left)


def sources_of(settings: Settings, asked: str | None) -> list[str]:
    """Sources that a backfill may read.

    Raises:
        SettingsError: the source that was asked for would bring V1 a second time.
    """
    versions = settings.polygon_versions
    v1_from_chain = V1 in versions.split(",")
    if asked == "goldsky" and v1_from_chain:
        raise SettingsError(f"--source goldsky: with POLYGON_VERSIONS={versions} {V1_TWICE}")
    if asked is not None:
        return [asked]
    return ["polygon"] if v1_from_chain else list(SLICED)


def first_second(source: str, versions: str) -> int:
    """First second in which a source may have a fill; `versions` are those read from the chain, by comma."""
    return min(
        GENESIS[version] for version in ([V1] if source == "goldsky" else versions.split(","))
    )


def ranges(
    sources: Iterable[str],
    start: int,
    end: int,
    *,
    versions: str,
    ends: Mapping[str, int],
) -> list[Slice]:
    """The part of [start, end) that each source has; unix seconds.

    Args:
        versions: generations to read from the chain, by comma.
        ends: first second after the archive, and first one that the chain has not confirmed.
    """
    found = [
        Slice(
            source,
            max(start, first_second(source, versions)),
            min(end, ends[source]),
            versions if source == "polygon" else "",
        )
        for source in sources
    ]
    return [each for each in found if each.start < each.end]


def cut(whole: Slice, seconds: int) -> list[Slice]:
    """Cut a range at the multiples of `seconds` since 1970, oldest first."""
    first = (whole.start // seconds + 1) * seconds
    bounds = [whole.start, *range(first, whole.end, seconds), whole.end]
    return [replace(whole, start=start, end=end) for start, end in pairwise(bounds)]


def left_of(slices: Iterable[Slice], done: Iterable[Slice]) -> list[Slice]:
    """What is left of slices once others are done: those with a generation that these have not brought, of just such."""
    wanted, read = list(slices), list(done)
    missing: dict[Slice, list[str]] = {part: [] for part in wanted}
    for version in dict.fromkeys(version for part in wanted for version in generations(part)):
        having = [part for part in wanted if version in generations(part)]
        held = covered(having, [part for part in read if version in generations(part)])
        for part in having:
            if part not in held:
                missing[part].append(version)
    return [
        replace(part, versions=",".join(versions) if part.versions else "")
        for part, versions in missing.items()
        if versions
    ]


def generations(part: Slice) -> list[str]:
    """Generations that a slice brings. One that names none is of the archive, or of an earlier version, which read V2."""
    return part.versions.split(",") if part.versions else [V1 if part.source == "goldsky" else V2]


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

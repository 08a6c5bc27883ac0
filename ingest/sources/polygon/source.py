"""The source of fills from the chain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ingest.page import Stream
from ingest.progress import Progress
from ingest.sources.base import Finding, LetterKind, Parsed, Ranges, Source
from ingest.sources.desk import Desk, Landed
from ingest.sources.polygon.settings import PolygonSettings
from ingest.tables import LATE_FILLS, ORDER_FILLED

if TYPE_CHECKING:
    import pyarrow as pa

    from ingest.sources.polygon.slices import ChainReader

NAME = "polygon"


def _read(desk: Desk, progress: Progress, recheck: Ranges) -> Sequence[Stream]:
    from ingest.sources.polygon.endpoints import endpoints_of
    from ingest.sources.polygon.reader import Pace, streams

    settings = desk.settings
    return streams(
        endpoints_of(desk),
        progress=progress,
        known_fills=lambda first, last: known_fills(desk.landed, first, last),
        versions=tuple(settings.polygon_versions.split(",")),
        lookback=settings.fills_lookback_s,
        pace=Pace(
            confirmations=settings.polygon_confirmations,
            stale_after=settings.polygon_stale_after_s,
            second_reading=settings.polygon_second_reading_s or None,
        ),
        recheck=recheck,
    )


def known_fills(landed: Landed, first: int, last: int) -> pa.Table:
    """Rows of `order_filled` in these blocks, both included."""
    return landed.arrow(
        "select * from {raw}.order_filled final"
        " where block_number between {first:UInt64} and {last:UInt64}",
        {"first": first, "last": last},
    )


def slices(desk: Desk) -> ChainReader:
    """A reader of the chain's past for one thread; readers share what they know about the times of blocks."""
    from ingest.sources.polygon.endpoints import endpoints_of
    from ingest.sources.polygon.slices import ChainReader

    bounds: dict[int, int] = desk.kept("first blocks by time", dict)
    settings = desk.settings
    return ChainReader(
        endpoints_of(desk).for_backfill(),
        tuple(settings.polygon_versions.split(",")),
        settings.polygon_confirmations,
        bounds,
    )


def _probe(desk: Desk) -> Iterable[Finding]:
    from ingest.sources.polygon.probe import probe

    return probe(desk)


def _parse(record: Any, _: datetime) -> Parsed:
    from ingest.sources.polygon.logs import decode_logs

    return decode_logs([record], source=NAME)


POLYGON = Source(
    name=NAME,
    title="V2 and V3 fills, from the chain",
    tables=(ORDER_FILLED, LATE_FILLS),
    settings=PolygonSettings,
    read=_read,
    probe=_probe,
    letters={NAME: LetterKind(ORDER_FILLED, _parse)},
    slices=slices,
    lag_of_newest=True,
    reads_blocks_again=True,
    finds_tokens=True,
)

"""The source of V1 fills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from ingest.errors import ArchiveError
from ingest.page import Stream
from ingest.progress import Progress
from ingest.queue.slices import SliceReader
from ingest.sources.base import Finding, LetterKind, Parsed, Ranges, Source
from ingest.sources.desk import Desk
from ingest.sources.goldsky.settings import GoldskySettings
from ingest.tables import ORDER_FILLED, V1_WITH_PLACE

NAME, URL_SETTING = "goldsky", "GOLDSKY_URL"


def _client(desk: Desk) -> Any:
    from ingest.sources.goldsky.reader import LIMITS

    return desk.client(NAME, LIMITS, URL_SETTING)


def _read(desk: Desk, progress: Progress, _: Ranges) -> Sequence[Stream]:
    from ingest.sources.goldsky.reader import streams

    settings = desk.settings
    # Asked once: another run would need the writer lock, which this run holds, to change it.
    if desk.kept("V1 with place", lambda: _stands_with_place(desk)):
        raise ArchiveError(
            "goldsky: V1 fills with log index have landed, of the chain or of an archive, and each would count twice;"
            " unset GOLDSKY_START"
        )
    return streams(
        settings.goldsky_url,
        progress=progress,
        client=_client(desk),
        start=int(settings.goldsky_start.timestamp()),
        horizon=int(settings.goldsky_horizon.timestamp()),
        page_size=settings.goldsky_page_size,
    )


def _stands_with_place(desk: Desk) -> bool:
    """Whether V1 fills that cycles would read stand already, under the identity that the archive's rows do not have."""
    return bool(
        desk.landed.rows(
            f"select 1 from {{raw}}.order_filled final where {V1_WITH_PLACE}"
            " and timestamp between {start:UInt32} and {end:UInt32} limit 1",
            {
                "start": int(desk.settings.goldsky_start.timestamp()),
                "end": int(desk.settings.goldsky_horizon.timestamp()),
            },
        )
    )


def _slices(desk: Desk) -> SliceReader:
    """A reader that leaves the live source its share of the limits."""
    from ingest.sources.goldsky.slices import ArchiveReader

    settings = desk.settings
    horizon = -int(-settings.goldsky_horizon.timestamp() // 1)
    return ArchiveReader(
        _client(desk).in_background(), settings.goldsky_url, horizon, settings.goldsky_page_size
    )


def _probe(desk: Desk) -> Iterable[Finding]:
    from ingest.sources.probing import ask

    url = desk.settings.goldsky_url

    def end(client: Any) -> str:
        query = "{ _meta { block { number } hasIndexingErrors } }"
        answer = client.post_json(url, {"query": query}, request="its newest block")
        return f"archive ends at block {answer['data']['_meta']['block']['number']:,}"

    yield ask(desk, "Goldsky", url, URL_SETTING, end)


def _parse(record: Any, _: datetime) -> Parsed:
    from ingest.sources.goldsky.reader import decode_fills

    return decode_fills([record])


GOLDSKY = Source(
    name=NAME,
    title="V1 fills, from the archive",
    tables=(ORDER_FILLED,),
    settings=GoldskySettings,
    read=_read,
    probe=_probe,
    letters={NAME: LetterKind(ORDER_FILLED, _parse)},
    slices=_slices,
    needs=("goldsky_start",),
    ends=True,
    finds_tokens=True,
)

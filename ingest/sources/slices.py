"""Slices of the past: time ranges of one source, each read on its own, and a dlt source that lands what was read.

The readers are those of the live sources. Reading a slice needs no cursor: it begins at its start and is worth nothing
until its last page is landed, so whatever goes wrong, it is read again. Which threads read is left to
`ingest.queue.fetching`, which slices to read to `pipeline.jobs.backfill`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.extract import DltSource

from ingest.errors import SourceFrozen, WrongShape
from ingest.http import HttpClient
from ingest.land.landing import RESOURCE_OPTIONS, Landing
from ingest.progress import Progress
from ingest.records import DeadLetter
from ingest.sources.goldsky import reader as goldsky
from ingest.sources.polygon import reader as polygon
from ingest.sources.polygon.chain import Block, Endpoints
from ingest.sources.polygon.range_reader import RangeReader
from ingest.tables import ORDER_FILLED

PIPELINE = "polymarket_backfill"


@dataclass(frozen=True, order=True)
class Slice:
    """All fills of one source with a block time from `start` on and before `end`, unix seconds.

    Attributes:
        versions: of the chain, generations to read, by comma. Empty is what there was before slices
            named them: in the archive its only one, on the chain what the settings say.
    """

    source: str
    start: int
    end: int
    versions: str = ""

    def __str__(self) -> str:
        first, last = (
            f"{datetime.fromtimestamp(bound, UTC):%Y-%m-%d %H:%M:%S}"
            for bound in (self.start, self.end)
        )
        return f"{self.source} {first} to {last}"


@dataclass(frozen=True)
class Page:
    """What one request brought, or with `is_last` the end of its slice.

    Attributes:
        tables: `order_filled` rows of no load yet.
        dead: records that could not be parsed.
        fills: on the last page, rows of the whole slice.
        is_empty: on the last page, whether the slice had no other.
    """

    slice: Slice
    tables: list[pa.Table] = field(default_factory=list)
    dead: Sequence[DeadLetter] = ()
    is_last: bool = False
    fills: int = 0
    is_empty: bool = True

    @property
    def rows(self) -> int:
        """Rows in this page."""
        return sum(map(len, self.tables))

    @cached_property
    def nbytes(self) -> int:
        """Memory that the page takes, about."""
        return sum(table.nbytes for table in self.tables) + sum(len(x.payload) for x in self.dead)


class Reader(Protocol):
    """Reads slices of one source; belongs to one thread."""

    def pages(self, part: Slice) -> Iterator[Page]:
        """Every page of the slice, the last one aside.

        Raises:
            IngestError: the upstream failed; the pages so far are no more than a part of the slice.
        """


class ArchiveReader:
    """Slices of the V1 archive.

    Args:
        client: a client of this thread's own.
        url, horizon, page_size: see `goldsky.goldsky`.
    """

    def __init__(self, client: HttpClient, url: str, horizon: int, page_size: int) -> None:
        self._archive = goldsky.Archive(client, url, page_size)
        self._horizon = horizon

    def pages(self, part: Slice) -> Iterator[Page]:
        """See `Reader`."""
        cursor: dict[str, Any] = {"timestamp": part.start - 1, "id": None}
        pages = goldsky.archive_pages(self._archive, cursor, part.end, self._horizon, Progress())
        for rows in pages:
            yield Page(part, *goldsky.decode_fills(rows))


class ChainReader:
    """Slices of the chain.

    Args:
        endpoints: of this thread.
        versions, confirmations: see `polygon.polygon`.
        bounds: first block by time; readers share it, because one slice ends where the next begins.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        versions: tuple[str, ...],
        confirmations: int,
        bounds: dict[int, int],
    ) -> None:
        self._endpoints, self._confirmations, self._bounds = endpoints, confirmations, bounds
        self._versions = versions
        self._readers: dict[tuple[str, ...], RangeReader] = {}

    def pages(self, part: Slice) -> Iterator[Page]:
        """See `Reader`.

        Raises:
            SourceFrozen: the chain is not confirmed up to the end of the slice.
            WrongShape: blocks and fills contradict each other about their times.
            IngestError: see `RangeReader.read`.
        """
        confirmed = self._confirmed()
        where = {"source": polygon.SOURCE, "url": self._endpoints.preferred.url}
        if confirmed.timestamp + 1 < part.end:
            raise SourceFrozen(
                f"the chain is confirmed up to unix time {confirmed.timestamp + 1}, and the slice ends at {part.end};"
                " use another POLYGON_RPC_URL",
                **where,
            )
        reader = self._reader(part)
        reader.head = confirmed.number
        block, end = (self._first_block(bound, confirmed) for bound in (part.start, part.end))
        follows = None
        while block < end:
            tables, dead, read = reader.read(block, end - 1, follows)
            if not all(_lie_in(part, table) for table in tables):
                message = (
                    f"fills of blocks {block} to {read.number} do not lie in their slice's time"
                )
                raise WrongShape(f"{message}; try another endpoint", **where)
            yield Page(part, tables, dead)
            block, follows = read.number + 1, read

    def _reader(self, part: Slice) -> RangeReader:
        """A reader of the slice's generations, which remembers how many fills are to be expected."""
        versions = tuple(part.versions.split(",")) if part.versions else self._versions
        if versions not in self._readers:
            self._readers[versions] = RangeReader(self._endpoints, versions)
        return self._readers[versions]

    def confirmed_end(self) -> int:
        """Unix time before which every block is confirmed: no block to come can be earlier."""
        return self._confirmed().timestamp + 1

    def _confirmed(self) -> Block:
        return self._endpoints.ask(lambda endpoint: endpoint.confirmed(self._confirmations))

    def _first_block(self, timestamp: int, confirmed: Block) -> int:
        if timestamp not in self._bounds:
            found = polygon.block_since(self._endpoints, timestamp, confirmed)
            if found <= confirmed.number:
                self._bounds[timestamp] = found  # else a block to come may be earlier than found
            return found
        return self._bounds[timestamp]


def _lie_in(part: Slice, table: pa.Table) -> bool:
    """Whether all fills of a table have a time within the slice."""
    bounds = pc.min_max(table.column("timestamp").cast(pa.int64())).as_py()
    return not len(table) or (part.start <= bounds["min"] and bounds["max"] < part.end)


@dlt.source(name="slices", max_table_nesting=0)
def slices(take: Callable[[], Page | None], *, most_rows: int, ended: list[Page]) -> DltSource:
    """What was read of slices, as one load package; no cursor.

    Args:
        take: the next page; None ends the package.
        most_rows: a package with so many rows is full.
        ended: last pages that were taken are appended; their slices are landed once the package is loaded.
    """

    @dlt.resource(name="order_filled_slices", table_name=ORDER_FILLED.name, **RESOURCE_OPTIONS)
    def order_filled_slices() -> Iterator[Any]:
        landings: dict[str, Landing] = {}
        rows = 0
        while rows < most_rows and (page := take()) is not None:
            source = page.slice.source
            landing = landings.setdefault(source, Landing(source))
            yield from landing.add(page.tables, page.dead)
            rows += page.rows
            if page.is_last:
                ended.append(page)
        for landing in landings.values():
            yield from landing.flush()

    return order_filled_slices

"""Slices of the chain."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from ingest.errors import SourceFrozen, WrongShape
from ingest.page import Page
from ingest.queue.slices import Slice
from ingest.sources.polygon.block_search import block_since
from ingest.sources.polygon.chain import Block, Endpoints, where_of
from ingest.sources.polygon.landing import fills_page
from ingest.sources.polygon.range_reader import RangeReader


class ChainReader:
    """Slices of the chain.

    Args:
        endpoints: of this thread.
        versions, confirmations: see `reader.streams`.
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
        """See `SliceReader`.

        Raises:
            SourceFrozen: the chain is not confirmed up to the end of the slice.
            WrongShape: blocks and fills contradict each other about their times.
            IngestError: see `RangeReader.read`.
        """
        confirmed = self._confirmed()
        where = where_of(self._endpoints.preferred)
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
            yield fills_page(tables, dead)
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
            found = block_since(self._endpoints, timestamp, confirmed)
            if found <= confirmed.number:
                self._bounds[timestamp] = found  # else a block to come may be earlier than found
            return found
        return self._bounds[timestamp]


def _lie_in(part: Slice, table: pa.Table) -> bool:
    """Whether all fills of a table have a time within the slice."""
    bounds = pc.min_max(table.column("timestamp").cast(pa.int64())).as_py()
    return not len(table) or (part.start <= bounds["min"] and bounds["max"] < part.end)

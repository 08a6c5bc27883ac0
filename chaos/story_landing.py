"""Where the rows of a story go: tables in memory that behave as the landing tables do, and what they are to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import pyarrow as pa

from ingest.page import Stream
from ingest.progress import Progress
from ingest.records import fill_keys
from ingest.tables import ORDER_FILLED
from sandbox.chain import Chain
from sandbox.contracts import Fill

RESOURCE = "order_filled_chain"

MakeStreams = Callable[[Progress], Sequence[Stream]]


class Landing(Protocol):
    """Where the source's rows go, and what it finds there."""

    def load(self, make_streams: MakeStreams) -> Progress:
        """Run the source once and land what it brings."""

    def add(self, table: pa.Table) -> None:
        """Land rows of `order_filled`."""

    def known(self, first: int, last: int) -> pa.Table:
        """The rows of these blocks."""

    def keys(self, first: int, last: int) -> set[tuple]:
        """The fills of these blocks, by the key that they land under."""

    def cursor(self) -> dict[str, Any]:
        """The source's cursor."""


class Tables:
    """Landing tables in memory: the newest row of each fill counts, as in ClickHouse."""

    def __init__(self) -> None:
        self.rows: dict[tuple, dict] = {}
        self.state: dict[str, Any] = {}

    def load(self, make_streams: MakeStreams) -> Progress:
        """See `Landing`."""
        progress = Progress()
        for stream in make_streams(progress):
            for page in stream.read(self.state.setdefault(stream.name, {})):
                if page.table is ORDER_FILLED:  # not notes of late fills
                    for rows in page.rows:
                        self.add(rows)
        return progress

    def cursor(self) -> dict[str, Any]:
        """See `Landing`."""
        return cursor_in(self.state)

    def add(self, table: pa.Table) -> None:
        """See `Landing`."""
        for key, row in zip(fill_keys(table), table.to_pylist(), strict=True):
            if row["is_deleted"]:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row

    def known(self, first: int, last: int) -> pa.Table:
        """See `Landing`."""
        rows = [row for row in self.rows.values() if first <= row["block_number"] <= last]
        return pa.Table.from_pylist(rows, schema=ORDER_FILLED.schema)

    def keys(self, first: int, last: int) -> set[tuple]:
        """See `Landing`."""
        return {key for key, row in self.rows.items() if first <= row["block_number"] <= last}


def cursor_in(state: dict[str, Any]) -> dict[str, Any]:
    """The source's cursor among those of its streams; before it has one, one at the very beginning."""
    return {"next_block": 0, "second_next": 0} | state.get(RESOURCE, {}).get("head", {})


def truth(chain: Chain, first: int, last: int) -> set[tuple]:
    """The fills of these blocks, by the key that they land under."""
    return {
        (log.timestamp, log.tx_hash, log.log_index, log.order_hash)
        for log in chain.logs(first, last)
        if isinstance(log, Fill)
    }

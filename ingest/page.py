"""What a source yields: pages of landing rows, in streams that each have a cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ingest.records import DeadLetter
from ingest.tables import Table


@dataclass(frozen=True)
class Page:
    """What one request brought.

    Attributes:
        table: the landing table of the rows.
        rows: landing rows of no load yet, in the table's Arrow schema.
        source: the name under which dead letters are kept.
        dead: records that could not be used.
    """

    table: Table
    rows: Sequence[pa.Table]
    source: str = ""
    dead: Sequence[DeadLetter] = ()

    def __len__(self) -> int:
        return sum(map(len, self.rows))


@dataclass(frozen=True)
class Stream:
    """Pages that follow one cursor.

    Attributes:
        name: of the dlt resource, under which the cursor is stored.
        table: the landing table of its rows; a page may have another one.
        read: yields the pages after a cursor, and moves the cursor, a dict that dlt can store. A page
            and the cursor behind it are landed together.
    """

    name: str
    table: Table
    read: Callable[[dict[str, Any]], Iterator[Page]]

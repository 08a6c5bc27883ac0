"""Slices of the past: time ranges of one source, each read on its own, and the pages that were read of them.

Reading a slice needs no cursor: it begins at its start and is worth nothing until its last page is landed, so whatever
goes wrong, it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from ingest.page import Page, Stream
from ingest.tables import ORDER_FILLED


@dataclass(frozen=True, order=True)
class Slice:
    """All rows of one source with a time from `start` on and before `end`, unix seconds.

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
class SlicePage:
    """A page of a slice, or with `is_last` the end of its slice.

    Attributes:
        page: what was read; None at the end.
        fills: at the end, rows of the whole slice.
        is_empty: at the end, whether the slice had no page.
    """

    slice: Slice
    page: Page | None = None
    is_last: bool = False
    fills: int = 0
    is_empty: bool = True

    @property
    def rows(self) -> int:
        """Rows in this page."""
        return len(self.page) if self.page else 0

    @cached_property
    def nbytes(self) -> int:
        """Memory that the page takes, about."""
        if self.page is None:
            return 0
        dead = sum(len(letter.payload) for letter in self.page.dead)
        return sum(table.nbytes for table in self.page.rows) + dead


class SliceReader(Protocol):
    """Reads slices of one source; belongs to one thread."""

    def pages(self, part: Slice) -> Iterator[Page]:
        """Every page of the slice.

        Raises:
            IngestError: the upstream failed; the pages so far are no more than a part of the slice.
        """


def slices(
    take: Callable[[], SlicePage | None], *, most_rows: int, ended: list[SlicePage]
) -> Stream:
    """What was read of slices, as one load package; no cursor.

    Args:
        take: the next page; None ends the package.
        most_rows: a package with so many rows is full.
        ended: last pages that were taken are appended; their slices are landed once the package is loaded.
    """

    def pages(_: dict[str, Any]) -> Iterator[Page]:
        rows = 0
        while rows < most_rows and (taken := take()) is not None:
            if taken.page is not None:
                yield taken.page
            rows += taken.rows
            if taken.is_last:
                ended.append(taken)

    return Stream("order_filled_slices", ORDER_FILLED, pages)

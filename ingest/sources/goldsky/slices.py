"""Slices of the V1 archive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ingest.http import HttpClient
from ingest.page import Page
from ingest.progress import Progress
from ingest.queue.slices import Slice
from ingest.sources.goldsky import reader


class ArchiveReader:
    """Slices of the V1 archive.

    Args:
        client: a client of this thread's own.
        url, horizon, page_size: see `reader.streams`.
    """

    def __init__(self, client: HttpClient, url: str, horizon: int, page_size: int) -> None:
        self._archive = reader.Archive(client, url, page_size)
        self._horizon = horizon

    def pages(self, part: Slice) -> Iterator[Page]:
        """See `SliceReader`."""
        cursor: dict[str, Any] = {"timestamp": part.start - 1, "id": None}
        pages = reader.archive_pages(self._archive, cursor, part.end, self._horizon, Progress())
        for rows in pages:
            yield reader.fills_page(rows)

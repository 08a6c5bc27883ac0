"""The one dlt source: it lands the pages of any streams.

Promises that rows and the cursor behind them end up in one load package: a batch is flushed, and the cursor stored,
before its resource ends.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import dlt
import pyarrow as pa
from dlt.extract import DltResource, DltSource

from ingest.events import Event, happened
from ingest.land.landing import RESOURCE_OPTIONS, Landing, portable
from ingest.page import Page, Stream
from ingest.progress import Progress


class Reading:
    """Streams that are being read, from the cursors on that are given.

    Args:
        cursors: by stream; they stay as they are.

    Attributes:
        cursors: by stream, as far as the streams have been read.
    """

    def __init__(self, streams: Sequence[Stream], cursors: Mapping[str, dict[str, Any]]) -> None:
        self._before = {each.name: cursors.get(each.name, {}) for each in streams}
        self.cursors = copy.deepcopy(self._before)
        self._streams = [(each, _pages_of(each, self.cursors[each.name])) for each in streams]

    def finds_a_page(self) -> bool:
        """Read until there is a page; False if the streams have ended without any."""
        for at, (stream, pages) in enumerate(self._streams):
            for page in pages:
                if len(page) or page.dead:
                    self._streams[at] = stream, chain([page], pages)
                    return True
        return False

    @property
    def has_moved(self) -> bool:
        """Whether a cursor is not where it was."""
        return self.cursors != self._before

    def as_dlt_source(self, name: str) -> DltSource:
        """What the streams have to give still, and the cursors behind it."""
        return _source(name, [self._resource(stream, pages) for stream, pages in self._streams])

    def _resource(self, stream: Stream, pages: Iterator[Page]) -> DltResource:
        def rows() -> Iterator[Any]:
            yield from _batches(pages)
            cursor = dlt.current.resource_state()
            cursor.clear()
            cursor.update(copy.deepcopy(self.cursors[stream.name]))

        return _resource(stream, rows)


def _pages_of(stream: Stream, cursor: dict[str, Any]) -> Iterator[Page]:
    """The pages of a stream, each announced before anybody has it."""
    for page in stream.read(cursor):
        happened(Event.PAGE_READ, stream=stream.name, rows=len(page), dead=len(page.dead))
        yield page


def as_dlt_source(name: str, streams: Sequence[Stream], progress: Progress) -> DltSource:
    """Streams as a source for `dlt.pipeline(…).run(…)`: what fails ends the run, and nothing of it is loaded.

    It may go to any destination of dlt, so its columns are those of `ingest.land.landing.portable`.

    Args:
        progress: the one that the streams were made with.

    Raises:
        IngestError: while dlt extracts; what the upstream did wrong.
    """

    def strict(stream: Stream) -> DltResource:
        def rows() -> Iterator[Any]:
            pages = _pages_of(stream, dlt.current.resource_state())
            yield from _batches(pages, portable)
            if progress.failures:
                raise progress.failures[0]

        return _resource(stream, rows)

    return _source(name, [strict(stream) for stream in streams])


def _batches(
    pages: Iterable[Page], reshape: Callable[[pa.Table], pa.Table] = lambda rows: rows
) -> Iterator[Any]:
    landing = Landing(reshape)
    for page in pages:
        yield from landing.add(page)
    yield from landing.flush()


def _resource(stream: Stream, rows: Callable[[], Iterator[Any]]) -> DltResource:
    return dlt.resource(rows, name=stream.name, table_name=stream.table.name, **RESOURCE_OPTIONS)


def _source(name: str, resources: Sequence[DltResource]) -> DltSource:
    return dlt.source(lambda: resources, name=name, max_table_nesting=0)()

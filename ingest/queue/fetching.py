"""Threads that read slices ahead, and the queue in which their pages wait to be landed.

Promises bounded memory, whatever a slice holds: a thread whose pages find the queue full waits. Pages of one slice come
out in order, its last one last. Reading goes on while others load, settle or read what is live; what is landed when, and
when a slice is done, is left to the caller.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from ingest.errors import IngestError
from ingest.events import Event, span
from ingest.queue.backlog import Backlog
from ingest.queue.slices import Slice, SlicePage, SliceReader

QUEUE_BYTES = 128 << 20
JOIN_TIMEOUT_S = 1.0
# A thread that has nothing to read looks again after this time, for a source whose pause is over.
LOOK_AGAIN_S = 0.2

# Makes the readers of one thread, by source.
MakeReaders = Callable[[], Mapping[str, SliceReader]]


class _Abandoned(Exception):
    """What a thread is reading is not wanted any more."""


class FetchPool:
    """Reads slices with some threads; use as a context manager.

    Args:
        make_readers: called once in each thread.
        workers: number of threads; none of them starts before there is something to read.
        backlog: which slice is next.
        queue_bytes: memory that pages may take while they wait; a single one may be larger.
    """

    def __init__(
        self,
        make_readers: MakeReaders,
        workers: int,
        backlog: Backlog,
        queue_bytes: int = QUEUE_BYTES,
    ) -> None:
        self._make_readers, self._workers = make_readers, workers
        self._backlog, self._queue_bytes = backlog, queue_bytes
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._queue: deque[SlicePage] = deque()
        self._bytes = 0
        self._round = 0  # pages of an earlier one are worthless
        self._failures: list[tuple[Slice, IngestError]] = []
        self._defect: Exception | None = None
        self._closed = False

    def __enter__(self) -> FetchPool:
        return self

    def __exit__(self, *_: object) -> None:
        """Tell the threads to end, and wait a little: one that waits for an upstream dies with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT_S)

    def want(self, slices: Iterable[Slice]) -> None:
        """The slices to be read are these from now on, but for those whose reading has begun."""
        with self._changed:
            queued = {page.slice for page in self._queue if page.is_last}
            self._backlog.want(part for part in slices if part not in queued)
            self._changed.notify_all()
            may_take = self._backlog.may_take
        if may_take and not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name=f"backfill-{number}", daemon=True)
                for number in range(self._workers)
            ]
            for thread in self._threads:
                thread.start()

    def take(self, deadline: float) -> SlicePage | None:
        """The next page; None when `deadline` (of time.monotonic) comes or nothing more will."""
        with span(Event.PAGE_AWAITED), self._changed:
            while not self._queue:
                self._raise_defect()
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not (self._backlog.reading or self._backlog.may_take):
                    return None
                self._changed.wait(min(left_s, LOOK_AGAIN_S))
            return self._pop() if time.monotonic() < deadline else None

    def take_ended(self) -> list[SlicePage]:
        """Last pages that stand first in the queue: everything else of their slices was taken before."""
        with self._changed:
            ended = []
            while self._queue and self._queue[0].is_last:
                ended.append(self._pop())
            return ended

    def take_failures(self) -> list[tuple[Slice, IngestError]]:
        """What could not be read since the last call, in order; it will be tried again."""
        with self._changed:
            self._raise_defect()
            failures, self._failures = self._failures, []
            return failures

    @property
    def has_pages(self) -> bool:
        """Whether pages wait."""
        with self._changed:
            return bool(self._queue)

    @property
    def wants_emptying(self) -> bool:
        """Whether pages wait and threads wait for them to be taken, or read nothing any more."""
        with self._changed:
            half_full = self._bytes >= self._queue_bytes // 2
            return bool(self._queue) and (half_full or not self._backlog.reading)

    @property
    def has_hope(self) -> bool:
        """Whether pages wait or will come, at once or after a pause."""
        with self._changed:
            return bool(self._queue) or self._backlog.has_hope

    def wait(self, deadline: float) -> None:
        """Wait for a page or a failure, until `deadline` (of time.monotonic) at most."""
        with self._changed:
            while (left_s := deadline - time.monotonic()) > 0:
                if self._queue or self._failures or self._defect:
                    return
                self._changed.wait(left_s)

    def start_over(self) -> None:
        """Forget every page and every slice: what was taken may not have been landed."""
        with self._changed:
            self._round += 1
            self._queue.clear()
            self._bytes = 0
            self._backlog.put_back()
            self._changed.notify_all()

    def _pop(self) -> SlicePage:
        page = self._queue.popleft()
        self._bytes -= page.nbytes
        self._changed.notify_all()
        return page

    def _raise_defect(self) -> None:
        if self._defect is not None:
            raise self._defect

    def _work(self) -> None:
        """Read slices until the pool is closed."""
        try:
            readers = self._make_readers()
            while (job := self._next()) is not None:
                self._read(readers, *job)
        except Exception as defect:  # a thread must not die in silence
            with self._changed:
                self._defect = defect
                self._changed.notify_all()

    def _next(self) -> tuple[Slice, int] | None:
        with self._changed:
            while not self._closed:
                part = self._backlog.take()
                if part is not None:
                    return part, self._round
                self._changed.wait(LOOK_AGAIN_S)
        return None

    def _read(self, readers: Mapping[str, SliceReader], part: Slice, of_round: int) -> None:
        end = SlicePage(part, is_last=True)
        try:
            for page in readers[part.source].pages(part):
                if len(page) or page.dead:
                    self._put(SlicePage(part, page), of_round)
                    end = replace(end, fills=end.fills + len(page), is_empty=False)
            self._end(end, of_round)
        except _Abandoned:
            return
        except IngestError as error:
            with self._changed:
                if of_round == self._round:
                    self._backlog.failed(part)
                    self._failures.append((part, error))
                    self._changed.notify_all()

    def _put(self, page: SlicePage, of_round: int) -> None:
        """Queue a page as soon as there is room."""
        with self._changed:
            while True:
                if self._closed or of_round != self._round:
                    raise _Abandoned
                if not self._queue or self._bytes + page.nbytes <= self._queue_bytes:
                    break
                self._changed.wait()
            self._queue.append(page)
            self._bytes += page.nbytes
            self._changed.notify_all()

    def _end(self, end: SlicePage, of_round: int) -> None:
        with self._changed:
            if self._closed or of_round != self._round:
                raise _Abandoned
            if end.is_empty:  # no page of its slice waits, so it need not wait either
                self._queue.appendleft(end)
            else:
                self._queue.append(end)
            self._backlog.done(end.slice)
            self._changed.notify_all()

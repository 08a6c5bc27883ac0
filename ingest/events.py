"""Named points of the program, for listeners: progress bars, metrics, crash tests, benchmarks.

The code announces what it does and knows nothing of its listeners; they patch nothing. Listeners are called in the thread
that announces, in the order in which they came, and must be quick.

A listener that fails does no harm in production: it is dropped, and the log says so once, with its traceback, because
a progress bar must not decide whether rows are loaded. Crash tests and the like listen strictly: what they raise
reaches the code that announced.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

log = logging.getLogger(__name__)


class Event(Enum):
    """What is announced, with its facts. A span announces that it begins, and that it ends or fails; a point just itself."""

    LOCK_TAKEN = auto()
    """Point: this run holds the writer lock from now on. `verb`, `number`."""
    LOCK_RELEASED = auto()
    """Span: the lock is given back. `number`."""
    PREPARED = auto()
    """Span: schema and models are brought up to date."""
    MIGRATION_EXECUTED = auto()
    """Point: all statements of a migration were executed, and it is not recorded yet. `name`."""
    MODELS_BUILT = auto()
    """Span: dbt builds and compiles the models; they are recorded after that."""

    JOB_RUN = auto()
    """Span: one run of a job. `job`; at its end `rows`, `caught_up` and `failure` (empty: it went well)."""
    SOURCE_READ = auto()
    """Span: a source is read and what it gives is loaded, not settled. `source`."""
    REQUEST_SENT = auto()
    """Span: a request to an upstream, until the head of its answer is there. `source`."""
    PAGE_READ = auto()
    """Point: a stream has given a page, which nobody has yet. `stream`, `rows`, `dead` (letters)."""
    PAGE_AWAITED = auto()
    """Span: a backfill waits for a page of a slice that threads are reading."""

    STATE_TAKEN_OVER = auto()
    """Span: the working folder is compared with the cursors in ClickHouse. `pipeline`."""
    PACKAGE_EXTRACTED = auto()
    """Span: pages become a load package. `pipeline`."""
    PACKAGE_NORMALIZED = auto()
    """Span: a load package becomes files. `pipeline`."""
    PACKAGE_LOADED = auto()
    """Span: dlt loads packages into ClickHouse, all files and the cursor. `pipeline`, `rows`."""
    FILE_INSERTED = auto()
    """Span: a file is inserted; the lock was proved right before. `table`."""
    PACKAGE_COMPLETED = auto()
    """Span: the cursor of a package is made to count, all its files are in ClickHouse. `load_id` (of dlt)."""
    SLICES_LANDED = auto()
    """Point: a package of slices is in ClickHouse, and the slices are not done yet. `rows`."""

    LEDGER_WRITTEN = auto()
    """Span: rows of the ledger are written. `rows`."""
    LOAD_OPENED = auto()
    """Point: the ledger knows a load of which no row is inserted yet. `load_id`."""
    LOAD_CLOSED = auto()
    """Point: the ledger knows that loads are loaded. `load_ids`."""

    SETTLED = auto()
    """Span: whatever is unsettled is settled."""
    SETTLE_MARKED = auto()
    """Point: loads of one table are marked as being settled. `loads`."""
    STATEMENT_EXECUTED = auto()
    """Span: the loads that are marked are settled for one model. `model`."""
    SETTLE_RECORDED = auto()
    """Span: loads whose every model was recomputed are recorded as settled. `loads`."""


class Stage(Enum):
    """Where in an event a moment is."""

    HAPPENED = auto()
    BEGINS = auto()
    ENDS = auto()
    FAILS = auto()


@dataclass(frozen=True, slots=True)
class Moment:
    """What a listener is told.

    Attributes:
        facts: see `Event`.
        seconds: since the span began, at its end.
    """

    event: Event
    stage: Stage
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_over(self) -> bool:
        """Whether a span has ended, well or not."""
        return self.stage in (Stage.ENDS, Stage.FAILS)


Listener = Callable[[Moment], None]


class Listening:
    """A listener that is told of everything until `stop`, or the end of the block whose context manager this is."""

    def __init__(self, callback: Listener, is_strict: bool) -> None:
        self._callback, self._is_strict = callback, is_strict

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Tell it nothing any more."""
        global _listening
        with _mutex:
            _listening = tuple(each for each in _listening if each is not self)

    def tell(self, moment: Moment) -> None:
        """Tell it, and drop it if it fails and is not strict."""
        try:
            self._callback(moment)
        except Exception:
            if self._is_strict:
                raise
            self.stop()
            log.exception("events: a listener failed at %s and is dropped", moment.event.name)


_mutex = threading.Lock()
_listening: tuple[Listening, ...] = ()  # replaced as a whole, so that it is read without the mutex


def listen(callback: Listener, *, strict: bool = False) -> Listening:
    """Have a callback told of every moment from now on, in any thread.

    Args:
        strict: what it raises is raised where the moment was announced.
    """
    global _listening
    listening = Listening(callback, strict)
    with _mutex:
        _listening = (*_listening, listening)
    return listening


def happened(event: Event, **facts: Any) -> None:
    """Announce a point."""
    if _listening:
        _tell(Moment(event, Stage.HAPPENED, facts))


def span(event: Event, **facts: Any) -> AbstractContextManager[dict[str, Any]]:
    """Announce the begin and the end of a block; its value takes facts that are known in the end only."""
    return _Span(event, facts) if _listening else _Unheard()


class _Span:
    """A span that somebody listens to."""

    __slots__ = ("_event", "_facts", "_since")

    def __init__(self, event: Event, facts: dict[str, Any]) -> None:
        self._event, self._facts = event, facts

    def __enter__(self) -> dict[str, Any]:
        _tell(Moment(self._event, Stage.BEGINS, dict(self._facts)))
        self._since = time.perf_counter()
        return self._facts

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        seconds = time.perf_counter() - self._since
        stage = Stage.ENDS if failure is None else Stage.FAILS
        _tell(Moment(self._event, stage, self._facts, seconds))


class _Unheard:
    """A span while nobody listens."""

    __slots__ = ()

    def __enter__(self) -> dict[str, Any]:
        return {}

    def __exit__(self, *_: object) -> None:
        pass


def _tell(moment: Moment) -> None:
    for listening in _listening:
        listening.tell(moment)

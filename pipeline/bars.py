"""What a terminal shows of jobs: a bar for each that reads, loads or settles, by the events that it announces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ingest.events import Event, Moment, listen
from pipeline.console import Step, display, err, human


class _Bar:
    """The bar of one thread, there while it reads, loads or settles.

    Attributes:
        job: that the thread is running; empty: none.
    """

    def __init__(self) -> None:
        self.job = ""
        self._doing: list[str] = []  # one inside the other
        self._step: Step | None = None
        self._pages = self._rows = 0

    def begin(self, name: str, doing: str) -> None:
        """Show that the thread begins something, under this name unless it is in something else."""
        if self._step is None:
            self._step, self._pages, self._rows = display.add(name, None, False), 0, 0
        self._doing.append(doing)
        self._step.update(doing)

    def end(self) -> None:
        """Show what the thread was in before; nothing if it was in nothing."""
        if self._step is None:
            return
        self._doing.pop()
        if self._doing:
            self._step.update(self._doing[-1])
        else:
            display.remove(self._step)
            self._step = None

    def say(self, doing: str) -> None:
        """Show what the thread is at in what it began last."""
        if self._step is not None:
            self._doing[-1] = doing
            self._step.update(doing)

    def count_page(self, rows: int) -> None:
        """Show one more page."""
        self._pages, self._rows = self._pages + 1, self._rows + rows
        pages = "1 page" if self._pages == 1 else f"{human(self._pages)} pages"
        self.say(f"reading: {pages}, {human(self._rows)} rows")


class _Bars(threading.local):
    """Listens to events and shows a bar for each thread that reads, loads or settles."""

    def __init__(self) -> None:
        self._bar = _Bar()

    def __call__(self, moment: Moment) -> None:
        bar, facts = self._bar, moment.facts
        match moment.event:
            case Event.JOB_RUN:
                bar.job = "" if moment.is_over else facts["job"]
            case Event.PAGE_READ:
                bar.count_page(facts["rows"])
            case Event.SETTLE_MARKED:
                rows = sum(load.loaded_rows for load in facts["loads"])
                bar.say(f"settling {human(rows)} rows of {facts['loads'][0].table_name}")
            case Event.SOURCE_READ | Event.PACKAGE_LOADED | Event.SETTLED if moment.is_over:
                bar.end()
            case Event.SOURCE_READ:
                bar.begin(facts["source"], "reading")
            case Event.PACKAGE_LOADED:
                bar.begin(bar.job or "loading", f"loading {human(facts['rows'])} rows")
            case Event.SETTLED:
                bar.begin(bar.job or "settling", "settling")


@contextmanager
def showing_jobs() -> Iterator[None]:
    """Show on a terminal what each job is doing for the length of the block; elsewhere log lines say what came of it.

    Threads of jobs may outlive the block: a signal does not wait for what they read.
    """
    if not err.is_terminal:
        yield
        return
    try:
        with listen(_Bars()):
            yield
    finally:
        display.close()

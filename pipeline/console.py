"""What a run shows: progress bars on a terminal, and log lines, plain or JSON, on screen and in a file by setting.

Results of a command (tables, query output) go to standard output; everything about how the run goes, to standard error.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipeline.errors import SettingsError

# Results are never wrapped or cut: a pipe gets whole lines, and a narrow terminal folds them itself.
out = Console(width=10_000)
err = Console(stderr=True)
QUIET_LIBRARIES = ("dlt", "clickhouse_connect", "urllib3", "httpx", "uvicorn", "dbt", "asyncio")
LOG_FILE_BYTES = 20_000_000
LOG_FILES_KEPT = 5


class _LineFormatter(logging.Formatter):
    """A plain line: time (UTC), level, message."""

    converter = time.gmtime

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%SZ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _AboveProgress(logging.Handler):
    """Prints the lines through the console, which keeps a progress bar below them."""

    def emit(self, record: logging.LogRecord) -> None:
        style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}.get(record.levelname)
        line = self.format(record)
        err.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def setup_logging(*, as_json: bool = False, file: Path | None = None) -> None:
    """Send log lines to standard error, and to a file too if one is named.

    Args:
        as_json: one JSON object a line, in both places.
        file: grows to LOG_FILE_BYTES, then becomes `<file>.1`; LOG_FILES_KEPT old ones are kept.

    Raises:
        SettingsError: the file cannot be written.
    """
    logging.raiseExceptions = False  # a full disk or a closed terminal must not print tracebacks
    handlers: list[logging.Handler] = [
        _AboveProgress() if err.is_terminal and not as_json else logging.StreamHandler(sys.stderr)
    ]
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handlers.append(
                RotatingFileHandler(
                    file, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, encoding="utf-8"
                )
            )
        except OSError as error:
            raise SettingsError(f"LOG_FILE: {file} cannot be written: {error.strerror}") from error
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if as_json else _LineFormatter())
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


class Step:
    """One step of a run as the user sees it: what is being done and how much of it is."""

    def __init__(self, progress: Progress | None, name: str, total: int | None, rate: bool):
        self._progress = progress
        self.task = (
            progress.add_task(name, total=total, detail="", rate=rate and total is not None)
            if progress
            else None
        )

    @property
    def visible(self) -> bool:
        """True on a terminal; elsewhere the caller's log lines must say how it goes."""
        return self._progress is not None

    def is_of(self, progress: Progress) -> bool:
        """Whether it is shown by this."""
        return self._progress is progress

    def update(self, detail: str, done: int | None = None, total: int | None = None) -> None:
        """Show how far the step is: in words, and in units of its total (which may have changed) where it has one."""
        if self._progress is not None:
            self._progress.update(self.task, detail=detail, completed=done, total=total)


class _RateColumn(ProgressColumn):
    """Units of the step's total done per second, where that says something."""

    def render(self, task: Task) -> Text:
        return Text(f"{human(task.speed or 0)}/s" if task.fields["rate"] else "")


class _LeftColumn(TimeRemainingColumn):
    """Time left, where the step has a total."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else super().render(task)


class Display:
    """The progress bars of all threads: a terminal has room for one display at a time."""

    def __init__(self) -> None:
        self._mutex, self._steps = threading.Lock(), 0
        self._progress: Progress | None = None

    def add(self, name: str, total: int | None, rate: bool) -> Step:
        """Show a step."""
        with self._mutex:
            if self._progress is None:
                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(bar_width=24),
                    TextColumn("{task.fields[detail]}"),
                    _RateColumn(),
                    _LeftColumn(),
                    TimeElapsedColumn(),
                    console=err,
                    transient=True,
                )
                self._progress.start()
            self._steps += 1
            return Step(self._progress, name, total, rate)

    def remove(self, step: Step) -> None:
        """Show it no longer."""
        with self._mutex:
            if self._progress is None or not step.is_of(self._progress):
                return  # it was closed meanwhile
            self._progress.remove_task(step.task)
            self._steps -= 1
            if not self._steps:
                self._stop()

    def close(self) -> None:
        """Show nothing any longer, although threads are still at work, and give the cursor back."""
        with self._mutex:
            if self._progress is not None:
                self._stop()

    def _stop(self) -> None:
        self._progress.stop()
        self._progress, self._steps = None, 0


display = Display()


@contextmanager
def step(name: str, total: int | None = None, *, rate: bool = True) -> Iterator[Step]:
    """Show a step on a terminal, with rate and time left where its `total` is known; elsewhere log lines speak for it.

    Threads may show theirs at the same time.

    Args:
        rate: False where units of the total a second say nothing.
    """
    if not err.is_terminal:
        yield Step(None, name, total, rate)
        return
    shown = display.add(name, total, rate)
    try:
        yield shown
    finally:
        display.remove(shown)


def simple_table(*columns: tuple[str, JustifyMethod]) -> Table:
    """An empty table without lines, of (title, justification) columns that are never broken."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in columns:
        table.add_column(title, justify=justify, no_wrap=True)
    return table


def shorten(text: str, width: int) -> str:
    """Text of at most `width` characters."""
    return text if len(text) <= width else text[: width - 1] + "…"


def human(number: float) -> str:
    """A count with thousands separators."""
    return f"{number:,.0f}"

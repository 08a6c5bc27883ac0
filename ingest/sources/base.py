"""What a source is: one upstream, declared once.

THE list of them is in `ingest/sources/__init__.py`. Everything that deals with sources reads it from there: the cycle,
the schedule, backfills, `replay`, `status`, `doctor`, the settings and the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ingest.tables import Table

if TYPE_CHECKING:
    import pyarrow as pa
    from pydantic_settings import BaseSettings

    from ingest.page import Stream
    from ingest.progress import Progress
    from ingest.queue.slices import SliceReader
    from ingest.records import DeadLetter
    from ingest.sources.desk import Desk

Ranges = Sequence[tuple[int, int]]
Parsed = tuple[list["pa.Table"], list["DeadLetter"]]


@dataclass(frozen=True)
class Finding:
    """One thing that `doctor` checked: what, how it is, and what to do if it failed."""

    subject: str
    detail: str
    failed: bool = False
    remedy: str = ""


@dataclass(frozen=True)
class LetterKind:
    """Dead letters of one name, and how one becomes landing rows once what was wrong with it is fixed.

    Attributes:
        table: the landing table of the rows.
        parse: (the record, when it was last read) -> landing rows, or why it still makes none.
    """

    table: Table
    parse: Callable[[Any, datetime], Parsed]


@dataclass(frozen=True)
class Source:
    """One upstream's reader.

    Attributes:
        name: as in SOURCES, `status` and the columns named `source`.
        title: what it brings, for people.
        tables: landing tables of its rows.
        settings: its settings; those that every source has are named below.
        read: what it has to give: (desk, budget, ranges of blocks to read again) -> streams.
        probe: asks the upstream as reading does, and says how that went.
        letters: its dead letters, by the name that they are kept under.
        slices: makes a reader of the past for one thread; None: the past cannot be asked for.
        needs: settings without which a cycle does not read it.
        lag_of_newest: how old the newest record read is says how fresh it is; else when it was last read does.
        ends: it is an archive: once it is read to its end, it is complete and never stale.
        reads_blocks_again: blocks of loads that may be of a fork are given to it to read again.
        finds_tokens: its rows name tokens that another source is asked about.
        looks_up_tokens: it is asked about tokens that others have found.
    """

    name: str
    title: str
    tables: tuple[Table, ...]
    settings: type[BaseSettings]
    read: Callable[[Desk, Progress, Ranges], Sequence[Stream]]
    probe: Callable[[Desk], Iterable[Finding]]
    letters: Mapping[str, LetterKind] = field(default_factory=dict)
    slices: Callable[[Desk], SliceReader] | None = None
    needs: tuple[str, ...] = ()
    lag_of_newest: bool = False
    ends: bool = False
    reads_blocks_again: bool = False
    finds_tokens: bool = False
    looks_up_tokens: bool = False

    @property
    def pipeline(self) -> str:
        """Name of its dlt pipeline."""
        return f"polymarket_{self.name}"

    @property
    def is_settled(self) -> bool:
        """Whether models are recomputed for what its loads touch."""
        return any(table.is_settled for table in self.tables)

    def max_lag_s(self, settings: Any) -> float:
        """Seconds after which it is stale: the setting `<NAME>_MAX_LAG_S`."""
        return getattr(settings, f"{self.name}_max_lag_s")

    def schedule(self, settings: Any) -> str:
        """Its cron expression, the setting `<NAME>_SCHEDULE`; empty: as often as POLL_INTERVAL_S says."""
        return getattr(settings, f"{self.name}_schedule")

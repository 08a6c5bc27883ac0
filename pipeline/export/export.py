"""`export`: a promised table as files, one per day or month, written by ClickHouse and streamed to the disk.

A part is compared with what its file holds by a hash that ClickHouse computes before it writes the file, so a file is never
older than what is noted of it, and running the same again writes what is missing or has changed, whatever changed it. No
lock is taken: every file is the answer of one query, beside a loop too.
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from clickhouse_connect.driver.client import Client

from pipeline.console import Step, human, step
from pipeline.errors import ExportError, NothingLoaded, UsageError
from pipeline.export.folder import Folder, Kept, opened
from pipeline.export.formats import FORMATS, Format, rows_of_parquet
from pipeline.export.selection import (
    Part,
    Selection,
    checked_condition,
    is_within,
    part_of,
    whole_parts,
)
from pipeline.export.stream import stream
from pipeline.export.tables import Table, chosen_columns, find_table
from pipeline.warehouse.client import connect
from pipeline.warehouse.run import Run

# Of a query whose answer is a few numbers, over all rows of a part.
LONGEST_S = 86_400
LOG_EVERY_S = 10.0
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What the user asked for, as it was given.

    Attributes:
        start, end: half-open; None: not given.
        by: day or month; None: as the table declares it.
        columns: by comma; None: all.
        equal: values by column.
        compression: none, gz or zst.
    """

    table: str
    out: Path
    start: datetime | None = None
    end: datetime | None = None
    by: str | None = None
    format: str = "parquet"
    columns: str | None = None
    where: str = ""
    equal: tuple[tuple[str, str], ...] = ()
    as_doubles: bool = False
    compression: str = "none"
    overwrite: bool = False


@dataclass
class Exported:
    """What came of it.

    Attributes:
        path: the folder of the table.
        written, same, removed: files.
        rows, bytes: of the files that were written.
        unsettled: loads that derived tables did not reflect yet.
    """

    path: Path
    written: int = 0
    same: int = 0
    removed: int = 0
    rows: int = 0
    bytes: int = 0
    unsettled: int = 0


def export(run: Run, wanted: Wanted) -> Exported:
    """Write the files that are missing or whose rows have changed.

    Raises:
        UsageError: the table or a column is not there, or the options make no sense together.
        NothingLoaded: no run has made the table yet.
        QueryFailed, ClickHouseUnavailable: ClickHouse failed; files that have their names are whole.
        ExportError: the folder cannot be written, or holds something else.
    """
    if not run.has_database(run.settings.clickhouse_database):
        raise NothingLoaded("nothing to export: no run has made the databases yet")
    run.refuse_unfinished()
    table = find_table(run, wanted.table)
    by = _refuse_ignored(wanted, table)
    selection = Selection(
        run.settings.clickhouse_database,
        table,
        chosen_columns(table, wanted.columns),
        checked_condition(run.client, wanted.where) if wanted.where else "",
        dict(wanted.equal),
    )
    options = {
        "table": wanted.table,
        "by": by,
        "format": wanted.format,
        "compress": wanted.compression,
        "columns": {name: table.types[name] for name in selection.columns},
        "where": wanted.where,
        "only": dict(wanted.equal),
        "decimals": "double" if wanted.as_doubles else "exact",
    }
    out = wanted.out.expanduser().absolute()
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out} is a file: name a folder")
    path = out / wanted.table
    days = whole_parts(by, wanted.start, wanted.end)
    with closing(connect(run.server, LONGEST_S)) as client:
        if not path.exists() and not _parts(client, selection, by, *days):
            return Exported(path)
        with opened(path, options, overwrite=wanted.overwrite) as folder:
            parts = _parts(
                client, selection, by, *days
            )  # as they are while nobody else exports here
            return _Export(run, client, selection, wanted, folder).run(by, parts)


def _parts(
    client: Client, selection: Selection, by: str, start: date | None, end: date | None
) -> list[Part]:
    """Parts that have rows, in order."""
    if by == "all":
        rows = _ask(client, selection, selection.content(Part()))[0][0]
        return [Part(rows=rows)] if rows else []
    found = _ask(client, selection, selection.parts(by, start, end))
    return [part_of(first, by, rows) for first, rows in found]


def _ask(client: Client, selection: Selection, query: str) -> list[tuple]:
    answer = client.query(query, parameters=selection.parameters, settings={"readonly": 2})
    return answer.result_rows


def _refuse_ignored(wanted: Wanted, table: Table) -> str:
    """What one file of the export holds: day, month, or all.

    Raises:
        UsageError: an option would have no effect on this table or format, or names a column that the table lacks.
    """
    name = wanted.table
    for column, _ in wanted.equal:
        if column not in table.types:
            option = f"--{column.removesuffix('_id')}"
            raise UsageError(f"{option}: {name} has no column {column}")
    if wanted.compression != "none" and not FORMATS[wanted.format].is_text:
        raise UsageError(
            f"--compress does not go with --format {wanted.format}, which is compressed inside"
        )
    if table.declared.time:
        return wanted.by or table.declared.by
    given = {"--from": wanted.start, "--to": wanted.end, "--by": wanted.by}
    if ignored := [option for option, value in given.items() if value is not None]:
        raise UsageError(
            f"{name} has no time to cut it by, so {', '.join(ignored)} would have no effect: it is exported as one file"
        )
    return "all"


class _Export:
    """One run of the verb."""

    def __init__(
        self, run: Run, client: Client, selection: Selection, wanted: Wanted, folder: Folder
    ) -> None:
        self._run, self._client, self._selection = run, client, selection
        self._wanted, self._folder = wanted, folder
        self._form: Format = FORMATS[wanted.format]
        self._done = Exported(folder.path)

    def run(self, by: str, parts: list[Part]) -> Exported:
        """Export every part, and remove what is left of those of which no row is."""
        with step(f"export {self._wanted.table}", total=sum(part.rows for part in parts)) as shown:
            progress = _Progress(shown, parts)
            for part in parts:
                progress.begin()
                self._export(part, progress)
                progress.end(part)
        self._remove_gone(by, {self._name(part) for part in parts})
        self._done.unsettled = self._unsettled()
        return self._done

    def _export(self, part: Part, progress: _Progress) -> None:
        """Write the file of a part unless it holds already what the part has now."""
        name = self._name(part)
        rows, content = _ask(self._client, self._selection, self._selection.content(part))[0]
        if not self._wanted.overwrite and self._folder.is_as(name, content, rows):
            self._done.same += 1
            return
        kept = self._write(part, name, content, progress)
        self._folder.keep(name, kept)
        self._done.written += 1
        self._done.rows += kept.rows
        self._done.bytes += kept.bytes

    def _write(self, part: Part, name: str, content: int, progress: _Progress) -> Kept:
        """Write the file of a part; it gets its name when it is known to have every row of the answer."""
        form = self._form
        counter = form.counter() if form.counter else None
        facts = {"rows": 0, "bytes": 0}

        def check(draft: Path) -> None:
            facts["bytes"] = draft.stat().st_size
            if counter is None:
                facts["rows"] = rows_of_parquet(draft)
            elif counter.rows != facts["rows"]:
                raise ExportError(
                    f"ClickHouse says that it sent {human(facts['rows'])} rows, and {human(counter.rows)} have arrived:"
                    " run it again"
                )

        with self._folder.written(name, self._wanted.compression, check) as sink:
            facts["rows"] = stream(
                self._run.server,
                self._selection.rows(part, form, as_doubles=self._wanted.as_doubles),
                sink,
                parameters=self._selection.parameters,
                settings=form.settings,
                counter=counter,
                on_piece=progress.add,
            )
        return Kept(facts["rows"], facts["bytes"], content)

    def _remove_gone(self, by: str, names: set[str]) -> None:
        """Remove the files of the range of which no row is left."""
        for name in self._folder.names():
            if name not in names and is_within(name, by, self._wanted.start, self._wanted.end):
                self._folder.remove(name)
                self._done.removed += 1

    def _name(self, part: Part) -> str:
        """The path of a part's file in the folder."""
        compression = self._wanted.compression
        suffix = "" if compression == "none" else f".{compression}"
        file = f"{self._wanted.table}.{self._form.extension}{suffix}"
        return f"{part.path}/{file}" if part.path else file

    def _unsettled(self) -> int:
        raw = self._run.settings.raw_database
        found = self._client.query(f"select countIf(state != 'settled') from {raw}.loads final")
        return found.result_rows[0][0]


class _Progress:
    """Says how far an export is: on a terminal at every piece, elsewhere as a line now and then."""

    def __init__(self, shown: Step, parts: list[Part]) -> None:
        self._shown, self._parts = shown, parts
        self._files = self._rows = self._bytes = 0
        self._said_at = time.monotonic()

    def begin(self) -> None:
        """The next file is looked at."""
        self._files, self._bytes = self._files + 1, 0
        self._say("comparing")

    def add(self, size: int) -> None:
        """A piece of it has arrived."""
        self._bytes += size
        self._say(f"{self._bytes / 1e6:,.1f} MB")

    def end(self, part: Part) -> None:
        """It is there."""
        self._rows += part.rows

    def _say(self, doing: str) -> None:
        files = f"file {self._files} of {len(self._parts)}"
        self._shown.update(f"{files}, {doing}", self._rows)
        if not self._shown.visible and time.monotonic() - self._said_at > LOG_EVERY_S:
            log.info("export: %s, %s; %s rows done", files, doing, human(self._rows))
            self._said_at = time.monotonic()

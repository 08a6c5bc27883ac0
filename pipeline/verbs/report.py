"""How answers look on a terminal: tables and short lines, nothing that needs a wide screen.

Every verb imports this module, so what takes long to import (dlt, a second) is imported where it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from embedded_clickhouse.ownership import make_folder
from embedded_clickhouse.passwords import OWNER, READER, password_file, password_of
from ingest.errors import ArchiveError
from pipeline.console import human, out, simple_table
from pipeline.jobs.freshness import COMPLETE, Freshness
from pipeline.timerange import show
from pipeline.warehouse.jobs import RUNNING

if TYPE_CHECKING:
    from pipeline.derive.comparison import Verdict
    from pipeline.derive.upgrade import Upgrade
    from pipeline.jobs.archive_plan import Plan as ArchivePlan
    from pipeline.jobs.replay import Replay
    from pipeline.jobs.slicing import Plan
    from pipeline.settings import Settings
    from pipeline.verbs.doctor import Finding
    from pipeline.verbs.status import JobStatus, Status, TableStatus
    from pipeline.warehouse.loads import Load

# Of all bytes on the disk; smaller tables are not shown one by one.
SHOWN_SHARE = 0.01


def how_to_connect(settings: Settings) -> str:
    """How to connect to the embedded ClickHouse: its users and their passwords, made now if there are none.

    Raises:
        EmbeddedError, OSError: its folder cannot be used.
    """
    folder, access = settings.clickhouse_local_path, settings.clickhouse_local_access
    make_folder(folder)
    kept = password_file(folder, OWNER)
    if access.password == "":
        owner = "  WARNING: it asks for no password, so every user of this machine may read and change it"
    elif access.password is None:
        owner = (
            f"  user {OWNER}, password {password_of(folder, OWNER)} (kept in {kept})\n"
            f"  for plain dbt: export CLICKHOUSE_PASSWORD=$(cat {kept})"
        )
    else:
        owner = f"  user {OWNER}, password as set in CLICKHOUSE_PASSWORD"
    reader = f"  user {READER}, who may only read, password {password_of(folder, READER)}"
    return f"{owner}\n{reader}"


def print_status(status: Status) -> None:
    """Print the answer of `status`."""
    out.print(
        f"[bold]{escape(status.clickhouse)}[/] version {status.version}, database {status.database}"
    )
    if status.password_file:
        out.print(f"user {OWNER}, password in {escape(status.password_file)}")
    if not status.ready:
        out.print("Nothing is loaded yet. Run `python run_pipeline.py` for a first cycle.")
        return
    _print_freshness(status.sources)
    _print_jobs(status.jobs)
    _print_tables(status.tables)
    _print_sizes(status)
    _print_loads(status)
    out.print(f"writer: {escape(status.writer) if status.writer else 'nobody'}")
    out.print(f"tokens with trades but no market yet: {human(status.unknown_tokens)}")
    _print_backfills(status.backfills)
    _print_late_fills(status.late_fills)
    if not status.dead_letters:
        out.print("dead letters: none")
    for letter in status.dead_letters:
        out.print(
            f"[red]dead letters[/]: {letter['source']} {letter['reason']}: {human(letter['records'])}"
        )


def _print_sizes(status: Status) -> None:
    """What the larger tables take on the disk, and all of them."""
    if not status.sizes:
        return
    table = simple_table(("on disk", "left"), ("MB", "right"), ("bytes per fill", "right"))
    for each in status.sizes:
        if each.bytes >= SHOWN_SHARE * status.bytes:
            name = f"{each.database}.{each.table}"
            table.add_row(name, _megabytes(each.bytes), _per_fill(each.bytes_per_fill))
    table.add_row("all tables", _megabytes(status.bytes), _per_fill(status.bytes_per_fill))
    out.print(table)


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f}"


def _per_fill(number: float | None) -> str:
    return "" if number is None else f"{number:,.1f}"


def _print_freshness(sources: list[Freshness]) -> None:
    table = simple_table(
        ("source", "left"),
        ("state", "left"),
        ("read to", "left"),
        ("lag", "right"),
        ("at most", "right"),
    )
    for each in sources:
        state = f"[red]{each.state}[/]" if each.is_stale else each.state
        lag = "" if each.state == COMPLETE else age(each.lag_s)
        table.add_row(each.source, state, each.read_to or "", lag, age(each.max_lag_s))
    out.print(table)


def _print_jobs(jobs: list[JobStatus]) -> None:
    """What runs by itself, and why what does not run well does not."""
    table = simple_table(
        ("job", "left"), ("schedule", "left"), ("last run", "left"), ("", "left"), ("rows", "right"), ("next", "left")
    )  # fmt: skip
    for each in jobs:
        how = "running" if each.state == RUNNING else each.outcome or ""
        how = f"[red]{how}[/]" if each.failures else how
        last, following = each.started_at or "", each.next_at or ""
        table.add_row(each.job, each.schedule, last, how, human(each.rows), following)
    if jobs:
        out.print(table)
    for each in jobs:
        if each.failures:
            again = f"; tried again at {each.next_at}" if each.next_at else ""
            times = "once" if each.failures == 1 else f"{human(each.failures)} times in a row"
            out.print(
                f"[red]{each.job}[/]: failed {times} since {each.failing_since}{again}: {escape(each.problem or '')}",
                soft_wrap=True,
            )


def _print_tables(tables: list[TableStatus]) -> None:
    table = simple_table(("table", "left"), ("rows", "right"), ("newest", "left"), ("age", "right"))
    for row in tables:
        table.add_row(row.name, human(row.rows), row.newest_at or "", age(row.age_s))
    out.print(table)


def _print_loads(status: Status) -> None:
    """How much is settled, and what has to be read or derived again."""
    out.print(
        f"loads: {human(status.settled_loads)} settled, {human(status.unsettled_loads)} not yet; "
        f"last {status.last_load_at or 'never'}"
    )
    if status.to_derive_again:
        out.print(
            f"[red]to derive again[/]: {human(status.to_derive_again)} fills stand as an earlier version derived them;"
            " cycles do it bit by bit, `python run_pipeline.py upgrade` at once"
        )
    for table_name, rows in status.unchecked.items():
        out.print(
            f"[red]unchecked[/]: {human(rows)} rows of {table_name} may be of blocks that left the chain;"
            " the next reading of the chain reads them again"
        )


def _print_backfills(backfills: list[dict[str, Any]]) -> None:
    for each in backfills:
        out.print(
            f"backfill: {each['source']} {each['from_at']} to {each['to_at']}: {human(each['done'])} slices done,"
            f" {human(each['requested'])} requested"
        )
        if each["problem"]:
            out.print(f"[red]backfill[/]: {escape(each['problem'])}", soft_wrap=True)


def _print_late_fills(late: dict[str, Any]) -> None:
    if not late["blocks"]:
        out.print("late fills: none")
        return
    out.print(
        f"late fills: the second reading of the chain found {human(late['fills'])} that the first had missed and"
        f" took back {human(late['taken_back'])}, in {human(late['blocks'])} blocks; last {late['last_at']}"
    )


def print_replay(report: Replay, *, dry_run: bool) -> None:
    """Print what `replay` did, or would do."""
    if not report.letters:
        out.print("There are no dead letters to replay.")
        return
    outcomes = (
        ("landed", report.landed),
        ("landed before, derived again", report.derived),
        ("landed since in another way, off the list", report.known),
        ("of blocks that left the chain, off the list", report.gone),
        ("[red]still refused[/]", report.refused),
    )
    for outcome, counts in outcomes:
        for (source, reason), count in sorted(counts.items()):
            out.print(f"{outcome}: {source} {escape(reason)}: {human(count)}", soft_wrap=True)
    if dry_run:
        out.print("nothing was written")


def print_verdicts(verdicts: list[Verdict]) -> None:
    """Print what `verify` found: a line per table, and the first differences of those that have any."""
    table = simple_table(("table", "left"), ("rows", "right"), ("should be", "right"), ("", "left"))
    for each in verdicts:
        verdict = "equal" if each.equal else f"[red]{human(each.differences)} DIFFERENT[/]"
        table.add_row(each.table, human(each.rows), human(each.expected), verdict)
    out.print(table)
    for each in verdicts:
        for example in each.examples:
            out.print(f"  {each.table}: {example}", style="red", markup=False, soft_wrap=True)


def print_slices(slices: list[Load]) -> None:
    """Print what a rebuild would do."""
    from pipeline.derive.cutting import span_of

    table = simple_table(("raw table", "left"), ("from", "left"), ("to", "left"), ("rows", "right"))
    for load in slices:
        span = span_of(load)
        table.add_row(load.table_name, show(span.start), show(span.end), human(load.loaded_rows))
    out.print(table)
    rows = sum(load.loaded_rows for load in slices)
    out.print(f"{len(slices)} slices, {human(rows)} rows; nothing was written")


def print_plan(plan: Plan) -> None:
    """Print what a backfill would do."""
    from pipeline.jobs.slicing import SLICED, at

    table = simple_table(
        ("source", "left"), ("from", "left"), ("to", "left"), ("slices", "right"), ("done", "right")
    )
    for source in SLICED:
        slices = [part for part in plan.slices if part.source == source]
        if slices:
            done = len(slices) - sum(part.source == source for part in plan.left)
            first, last = show(at(slices[0].start)), show(at(slices[-1].end))
            table.add_row(source, first, last, human(len(slices)), human(done))
    out.print(table)
    out.print(f"{human(len(plan.left))} slices would be read; nothing was written")


def print_archive(plan: ArchivePlan) -> None:
    """Print what a backfill of an archive would do: each file with its layout, rows, time, days and bytes."""
    from pipeline.jobs.slicing import at

    columns = (
        ("rows", "right"),
        ("from", "left"),
        ("to", "left"),
        ("days", "right"),
        ("bytes", "right"),
    )
    table = simple_table(
        ("file", "left"), ("layout", "left"), *columns, ("slices", "right"), ("done", "right")
    )
    looked_at = {file.name: file for file, _ in plan.slices}
    for name, file in looked_at.items():
        try:
            first, last, *_, days = plan.archive.query(
                file.place, file.reading(plan.archive).days()
            )[0]
        except ArchiveError as error:
            plan.give_up(file, str(error).removeprefix(f"{file.place.name}: "))
            continue
        slices = len(file.conditions)
        done = slices - sum(each.name == name for each, _ in plan.left)
        span = [show(at(each)) if days else "" for each in (first, last)]
        numbers = human(days), human(file.bytes), human(slices), human(done)
        table.add_row(name, file.mapped.layout.name, human(file.rows), *span, *numbers)
    files = {file.name: file for file, _ in plan.slices}
    out.print(table, soft_wrap=True)
    for problem in plan.problems.values():
        out.print(f"[red]{escape(problem)}[/]", soft_wrap=True)
    out.print(
        f"{human(len(files))} files, {human(sum(file.rows for file in files.values()))} rows,"
        f" {human(sum(file.bytes for file in files.values()))} bytes, {human(len(plan.left))} slices would be read;"
        " nothing was written"
    )


def age(seconds: float | None) -> str:
    """An age in the largest unit that leaves at least one."""
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def print_findings(findings: list[Finding]) -> None:
    """Print the answer of `doctor`."""
    for finding in findings:
        mark = "[red]fail[/]" if finding.failed else "[green]ok[/]  "
        out.print(f"{mark} {escape(finding.subject)}: {escape(finding.detail)}", soft_wrap=True)
        if finding.failed and finding.remedy:
            out.print(f"     {escape(finding.remedy)}", soft_wrap=True)
    failures = sum(finding.failed for finding in findings)
    out.print(
        "Everything is in order."
        if not failures
        else f"{failures} of {len(findings)} checks failed."
    )


def print_upgrade(upgrade: Upgrade, owed: int) -> None:
    """Print what `upgrade` would do to each store."""
    table = simple_table(("store", "left"), ("what", "left"), ("raw rows", "right"))
    beside = {store.name for store in upgrade.beside}
    for store in upgrade.stores:
        change = upgrade.changes[store.name]
        how = ", filled beside" if store.name in beside else ""
        rows = "" if change == "unchanged" else human(upgrade.rows[store.name])
        table.add_row(store.name, f"{change}{how}", rows)
    out.print(table)
    out.print(f"{human(owed)} fills are to be derived again already; nothing was written")

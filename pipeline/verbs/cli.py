"""The command line: a thin click app over `pipeline/`. Every verb reads the settings, does one call and prints the answer.

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 another run holds the writer lock, 130 and 143 stopped by a signal.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click
from clickhouse_connect.driver.exceptions import ClickHouseError

from ingest.sources import SOURCES
from pipeline import console
from pipeline.bars import showing_jobs
from pipeline.errors import PipelineError, SourcesStale, TablesDiffer, UsageError
from pipeline.settings import PROJECT_DIR, Settings, load_settings
from pipeline.signals import Stopped, stop_on_signals
from pipeline.verbs.advice import advice
from pipeline.verbs.options import FiniteRange, refuse_ignored
from pipeline.warehouse.client import first_line, why_not_started

log = logging.getLogger(__name__)
# What the user's disk or folders may answer. A closed pipe is left to click, which ends in silence.
CANNOT_WRITE = {
    *(errno.EACCES, errno.EBADF, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO),
    *(errno.EISDIR, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
}
DEMO_VERBS = ("sql", "status", "clickhouse", "dbt", "rebuild", "verify", "backup", "restore")


def _note_ignored(ignored: sys.UnraisableHookArgs) -> None:
    """Log what fails while an object is thrown away: Python prints a traceback of it, after the error that is told."""
    log.debug("ignored while %s was thrown away: %s", ignored.object, ignored.exc_value)


def _why_not_written(error: OSError) -> str:
    """One line about a file or an output that cannot be written; what Python still holds for the output is dropped."""
    if error.filename is not None:
        return f"{error.filename} cannot be written: {error.strerror}; make room, or set another folder"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return f"the output cannot be written: {error.strerror}"


@contextmanager
def verb(context: click.Context) -> Iterator[Settings]:
    """Read the settings for a verb, and turn every failure that a user can cause into one line and its exit code."""
    stop_on_signals()
    sys.unraisablehook = _note_ignored
    try:
        settings = load_settings(demo=context.obj)
        console.setup_logging(as_json=settings.log_json, file=settings.log_file)
        with showing_jobs():
            for warning in advice(settings):
                log.warning("%s", warning)
            yield settings
    except PipelineError as error:
        console.err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        console.err.print(_why_not_written(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except ClickHouseError as error:
        console.err.print(f"ClickHouse failed: {first_line(error)}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped as stop:
        console.err.print(f"stopped by {stop.name}")
        sys.exit(stop.exit_code)


def _print_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
        click.echo(f"{project['name']} {project['version']}")
        context.exit()


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--demo", "use_demo", is_flag=True, help="Use what `demo` loaded instead of the real data."
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(context: click.Context, use_demo: bool) -> None:
    """Load Polymarket into ClickHouse and derive trades and candles there.

    Without a command: one cycle. Settings are environment variables or a .env file; see .env.example.
    """
    if use_demo and context.invoked_subcommand not in DEMO_VERBS:
        raise click.UsageError(
            f"--demo goes with {', '.join(DEMO_VERBS)}: real data must not mix with the demo's"
        )
    context.obj = use_demo
    if context.invoked_subcommand is None:
        context.invoke(once, only=(), skip=())


def _choosing(command: Callable) -> Callable:
    """Give a verb the options that choose sources."""
    names = click.Choice([source.name for source in SOURCES])
    only = click.option(
        "--only", type=names, multiple=True, help="Read this source alone. Repeatable."
    )
    skip = click.option(
        "--skip", type=names, multiple=True, help="Leave this source out. Repeatable."
    )
    return only(skip(command))


@cli.command()
@_choosing
@click.pass_context
def once(context: click.Context, only: tuple[str, ...], skip: tuple[str, ...]) -> None:
    """Read every source once and settle what is new. The same as no command."""
    from pipeline.jobs.loop import run_once

    with verb(context) as settings:
        run_once(settings, only, skip)


@cli.command()
@_choosing
@click.pass_context
def loop(context: click.Context, only: tuple[str, ...], skip: tuple[str, ...]) -> None:
    """Read every source at its own times until stopped: every POLL_INTERVAL_S, or as its schedule says."""
    from pipeline.jobs.loop import run_loop

    with verb(context) as settings:
        run_loop(settings, only, skip)


@cli.command()
@click.argument("expression")
@_choosing
@click.pass_context
def cron(
    context: click.Context, expression: str, only: tuple[str, ...], skip: tuple[str, ...]
) -> None:
    """Read every source at each time of a cron EXPRESSION (UTC); a sixth field gives seconds.

    \b
    Every ten minutes:       cron "*/10 * * * *"
    Every fifteen seconds:   cron "* * * * * */15"
    """
    from pipeline.jobs.loop import run_cron

    with verb(context) as settings:
        run_cron(settings, expression, only, skip)


@cli.command()
@click.option("--from", "from_text", metavar="TIME", help="First moment; else the first raw row.")
@click.option("--to", "to_text", metavar="TIME", help="First moment after it; else now.")
@click.option("--dry-run", is_flag=True, help="Only print the slices and the rows they hold.")
@click.pass_context
def rebuild(
    context: click.Context, from_text: str | None, to_text: str | None, dry_run: bool
) -> None:
    """Derive every table again from the raw rows of a time range (ISO dates or times, UTC, half-open).

    \b
    A month:           rebuild --from 2026-05-01 --to 2026-06-01
    From noon to now:  rebuild --from 2026-05-01T12:00
    """
    from pipeline.derive import rebuild as rebuilding
    from pipeline.timerange import parse_range
    from pipeline.verbs.report import print_slices
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        start, end = parse_range(from_text, to_text)
        with open_run(settings) as run:
            if dry_run:
                print_slices(rebuilding.plan(run, start, end))
            else:
                rebuilding.rebuild(run, start, end)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Only print what this version changes.")
@click.option("--back", is_flag=True, help="Also from a later version of the models to this one.")
@click.pass_context
def upgrade(context: click.Context, dry_run: bool, back: bool) -> None:
    """Bring the database to this version and derive again what it changes, at once and however long it takes.

    Every run does it too, but leaves to this command what would keep it from loading for minutes.
    """
    from pipeline.derive.models import upgrade_of
    from pipeline.derive.owed import owed
    from pipeline.derive.rebuild import upgrade as upgrading
    from pipeline.verbs.report import print_upgrade
    from pipeline.warehouse.run import open_run

    with verb(context) as settings, open_run(settings) as run:
        if not dry_run:
            upgrading(run, back=back)
            return
        left = sum(each.loaded_rows for each in owed(run))
        print_upgrade(upgrade_of(run), left)


@cli.command()
@click.option("--from", "from_text", metavar="TIME", help="First moment.")
@click.option("--to", "to_text", metavar="TIME", help="First moment after it; else all there is.")
@click.option(
    "--source",
    type=click.Choice(sorted(each.name for each in SOURCES if each.slices)),
    help="Read this one only; else V1 from the archive (goldsky), V2 and V3 from the chain (polygon).",
)
@click.option("--workers", type=click.IntRange(1, 64), help="Instead of BACKFILL_WORKERS.")
@click.option(
    "--slice",
    "slice_s",
    type=click.IntRange(1),
    metavar="SECONDS",
    help="Instead of BACKFILL_SLICE_S.",
)
@click.option("--again", is_flag=True, help="Read slices again that are done.")
@click.option("--dry-run", is_flag=True, help="Only print what would be read.")
@click.option(
    "--cancel",
    is_flag=True,
    help="Take back what is requested and not done; of all options only --source goes with it.",
)
@click.pass_context
def backfill(
    context: click.Context,
    from_text: str | None,
    to_text: str | None,
    source: str | None,
    workers: int | None,
    slice_s: int | None,
    again: bool,
    dry_run: bool,
    cancel: bool,
) -> None:
    """Read the fills of a time range (ISO dates or times, UTC, half-open), beside a running loop if there is one.

    \b
    A month:              backfill --from 2026-05-01 --to 2026-06-01
    All since a moment:   backfill --from 2026-04-01T12:00
    """
    from pipeline.jobs import backfill as backfilling
    from pipeline.verbs.report import print_plan
    from pipeline.warehouse.run import open_run

    if cancel:
        refuse_ignored(context, "--cancel", {"source"})
    given = {"backfill_workers": workers, "backfill_slice_s": slice_s}
    with verb(context) as settings:
        given = {name: value for name, value in given.items() if value is not None}
        settings = settings.model_copy(update=given)
        if cancel:
            with open_run(settings) as run:
                click.echo(f"{backfilling.cancel(run, source)} slices cancelled")
            return
        request = backfilling.parse_request(from_text, to_text, source, again)
        with open_run(settings) as run:
            if dry_run:
                print_plan(backfilling.plan(run, request))
            else:
                backfilling.backfill(run, request)


@cli.command()
@click.option("--from", "from_text", metavar="TIME", help="First day; else all there is before.")
@click.option(
    "--to", "to_text", metavar="TIME", help="First moment after it; else all there is after."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def verify(
    context: click.Context, from_text: str | None, to_text: str | None, as_json: bool
) -> None:
    """Compare every derived table with what raw makes it (whole UTC days); exit with 1 on any difference.

    \b
    Everything:  verify
    A month:     verify --from 2026-05-01 --to 2026-06-01
    """
    from pipeline.derive.models import full_refresh_selects
    from pipeline.derive.verify import verify as compare
    from pipeline.jobs.crosscheck import TABLE as DATA_API
    from pipeline.jobs.crosscheck import crosscheck
    from pipeline.timerange import parse_bounds
    from pipeline.verbs.report import print_verdicts
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        start, end = parse_bounds(from_text, to_text)
        with open_run(settings) as run:
            verdicts = compare(run, full_refresh_selects, start, end)
            verdicts += crosscheck(run, start, end)
        if as_json:
            equal = all(each.equal for each in verdicts)
            tables = [asdict(each) | {"equal": each.equal} for each in verdicts]
            click.echo(json.dumps({"equal": equal, "tables": tables}, indent=2))
        else:
            print_verdicts(verdicts)
        if different := [each.table for each in verdicts if not each.equal]:
            # What Polymarket has and we do not was never read, or not whole.
            again = "backfill --again" if different == [DATA_API] else "rebuild"
            raise TablesDiffer(
                f"{', '.join(different)}: not what they should be;"
                f" `{again} --from --to` {'reads' if again != 'rebuild' else 'derives'} a range again"
            )


@cli.command()
@click.option(
    "--source",
    type=click.Choice(sorted(name for each in SOURCES for name in each.letters)),
    help="Only dead letters of this source.",
)
@click.option("--reason", help="Only those of this reason, as `status` names it.")
@click.option("--dry-run", is_flag=True, help="Only count what would be replayed.")
@click.pass_context
def replay(context: click.Context, source: str | None, reason: str | None, dry_run: bool) -> None:
    """Take up records again that could not be parsed, once that is fixed: land them, settle, and say what is left."""
    from pipeline.jobs import replay as replaying
    from pipeline.verbs.report import print_replay
    from pipeline.warehouse.run import open_run

    with verb(context) as settings, open_run(settings) as run:
        print_replay(replaying.replay(run, source, reason, dry_run=dry_run), dry_run=dry_run)


@cli.command()
@click.argument("target", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.pass_context
def backup(context: click.Context, target: Path | None) -> None:
    """Write one backup of everything to FILE (or a folder; else `backups` of the data folder), beside a loop too.

    For the embedded ClickHouse. A loop that runs writes it when its cycle is over.
    """
    from pipeline.jobs import backup as backing_up
    from pipeline.verbs.report import print_backup
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        backing_up.refuse_server(settings, "backup")
        with open_run(settings) as run:
            print_backup(backing_up.backup(run, target))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Drop what the databases hold.")
@click.pass_context
def restore(context: click.Context, file: Path, replace: bool) -> None:
    """Put everything back to where the backup FILE stood; the next run goes on from there. Stop a loop first."""
    from pipeline.jobs import restore as restoring
    from pipeline.jobs.backup import refuse_server
    from pipeline.verbs.report import print_restored
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        refuse_server(settings, "restore")
        with open_run(settings) as run:
            print_restored(restoring.restore(run, file, replace=replace))


@cli.command()
@click.argument("query", required=False)
@click.pass_context
def sql(context: click.Context, query: str | None) -> None:
    """Run a QUERY (or standard input) and print what ClickHouse returns, tab-separated unless it names a FORMAT."""
    from pipeline.verbs.query import run_query
    from pipeline.warehouse.run import open_run

    text = query if query is not None else sys.stdin.read()
    if not text.strip():
        raise click.UsageError("there is no query: give one, or pipe one in")
    with verb(context) as settings, open_run(settings) as run:
        if sys.stdout is None:
            raise UsageError("standard output is closed, so there is nowhere to print the answer")
        database = settings.clickhouse_database
        known = database if run.has_database(database) else "default"
        run_query(run.server, known, text, sys.stdout.buffer)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a source is stale; for health checks.")
@click.pass_context
def status(context: click.Context, as_json: bool, strict: bool) -> None:
    """Show what is loaded, how fresh it is, who is writing and what needs attention."""
    from pipeline.verbs.report import print_status
    from pipeline.verbs.status import read_status
    from pipeline.warehouse.run import open_run

    with verb(context) as settings, open_run(settings) as run:
        answer = read_status(run)
        if as_json:
            click.echo(json.dumps(answer.to_json(), indent=2))
        else:
            print_status(answer)
        if strict and answer.stale:
            raise SourcesStale(f"stale: {', '.join(answer.stale)}")


@cli.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check the settings, ClickHouse, the folders and every upstream; say what to do about each failure."""
    from pipeline.verbs.doctor import examine
    from pipeline.verbs.report import print_findings

    with verb(context) as settings:
        findings = examine(settings)
        print_findings(findings)
        if any(finding.failed for finding in findings):
            sys.exit(1)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.pass_context
def clickhouse(context: click.Context, host: str) -> None:
    """Keep the embedded ClickHouse up for dbt, BI tools and notebooks, until stopped."""
    from embedded_clickhouse import EmbeddedError, serve
    from pipeline.errors import ClickHouseUnavailable
    from pipeline.verbs.report import how_to_connect

    with verb(context) as settings:
        try:
            users = how_to_connect(
                settings
            )  # once it serves, this process cannot read the passwords
            serve(
                settings.clickhouse_local_path,
                port=settings.clickhouse_local_port,
                host=host,
                access=settings.clickhouse_local_access,
                max_memory=settings.clickhouse_local_memory_bytes,
                on_ready=lambda host, port: click.echo(
                    f"ClickHouse {settings.clickhouse_local_path} is up at http://{host}:{port}/ until Ctrl-C\n{users}"
                ),
            )
        except EmbeddedError as error:
            port = settings.clickhouse_local_port
            raise ClickHouseUnavailable(why_not_started(error, port)) from error


def _faults(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list:
    from sandbox.faults import parse_fault

    try:
        return [parse_fault(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class _ListsFaults(click.Command):
    """A command whose help ends with the faults that there are."""

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them as a table, name by name."""
        from sandbox.faults import FAULTS

        with formatter.section("Faults"):
            formatter.write_dl(
                [(name, f"{it.what} ({', '.join(it.sources)})") for name, it in FAULTS.items()]
            )


@cli.command(cls=_ListsFaults)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=18200, show_default=True, help="Loopback port."
)
@click.option("--seed", default=1, show_default=True, help="Seed of the world.")
@click.option(
    "--markets", type=click.IntRange(1), default=200, show_default=True, help="Number of markets."
)
@click.option(
    "--matches",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Matches before it starts.",
)
@click.option(
    "--block-time",
    type=FiniteRange(0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds between blocks.",
)
@click.option(
    "--matches-per-block",
    type=FiniteRange(0),
    default=5.0,
    show_default=True,
    help="New matches per block.",
)
@click.option(
    "--fault", "faults", metavar="NAME[:PROBABILITY]", multiple=True, callback=_faults,
    help="Let this go wrong, at each request or with a probability; see below. Repeatable.",
)  # fmt: skip
@click.pass_context
def sandbox(
    context: click.Context,
    port: int,
    seed: int,
    markets: int,
    matches: int,
    block_time: float,
    matches_per_block: float,
    faults: list[tuple[str, float]],
) -> None:
    """Serve a simulated Polymarket on loopback, with new blocks, until stopped."""
    from pipeline.verbs.demo import serve_sandbox

    with verb(context):
        serve_sandbox(port, seed, markets, matches, block_time, matches_per_block, faults)


@cli.command()
@click.option("--seed", default=7, show_default=True, help="Seed of the simulated Polymarket.")
@click.option(
    "--matches",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    help="Matches before the first cycle.",
)
def demo(seed: int, matches: int) -> None:
    """Load a simulated Polymarket, derive everything, and hold it against the truth."""
    from pipeline.verbs.demo import run_demo

    with verb(click.Context(demo, obj=True)) as settings:
        run_demo(settings, seed=seed, matches=matches)


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, required=True)
@click.pass_context
def dbt(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Run dbt with ARGUMENTS against the ClickHouse in use, started if need be: `dbt test`, `dbt docs generate`.

    Commands that change tables (run, build, seed, ...) hold the writer lock meanwhile.
    """
    from pipeline.derive.dbt import asks_only, dbt_command, writes
    from pipeline.warehouse.run import open_run

    if asks_only(arguments):
        with verb(context) as settings:
            sys.exit(dbt_command(None, settings, list(arguments)))
    with verb(context) as settings, open_run(settings) as run:
        if not writes(arguments):
            sys.exit(dbt_command(run.server, settings, list(arguments)))
        with run.lock.held("dbt") as lock:
            run.refuse_unfinished()
            code = dbt_command(run.server, settings, list(arguments), lock.number)
        sys.exit(code)


def main() -> None:
    """Entry point of `run_pipeline.py`."""
    try:
        stop_on_signals()
        cli(prog_name="run_pipeline.py")
    except Stopped as stop:  # before a verb could take care of it
        sys.exit(stop.exit_code)

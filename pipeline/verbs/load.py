"""What is read from upstream: once, in a loop, by the clock, from the past, and again."""

from __future__ import annotations

from collections.abc import Callable

import click

from ingest.sources import SOURCES
from pipeline.verbs.frame import verb
from pipeline.verbs.options import refuse_ignored


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


@click.command()
@_choosing
@click.pass_context
def once(context: click.Context, only: tuple[str, ...], skip: tuple[str, ...]) -> None:
    """Read every source once and settle what is new. The same as no command."""
    from pipeline.jobs.loop import run_once

    with verb(context) as settings:
        run_once(settings, only, skip)


@click.command()
@_choosing
@click.pass_context
def loop(context: click.Context, only: tuple[str, ...], skip: tuple[str, ...]) -> None:
    """Read every source at its own times until stopped: every POLL_INTERVAL_S, or as its schedule says."""
    from pipeline.jobs.loop import run_loop

    with verb(context) as settings:
        run_loop(settings, only, skip)


@click.command()
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


@click.command()
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
@click.option(
    "--parquet",
    "patterns",
    metavar="PATTERN",
    multiple=True,
    help="Read an archive of Parquet files instead: a path or glob, an http(s):// address with {a,b} or {1..9}, or s3://…."
    " Repeatable.",
)
@click.option(
    "--replace-days",
    is_flag=True,
    help="With --parquet: move days over whose V1 fills stand with log index to an archive without, or the other way.",
)
@click.option(
    "--little-endian",
    is_flag=True,
    help="With --parquet: numbers of 32 bytes have their lowest byte first, as ClickHouse writes UInt256.",
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
    patterns: tuple[str, ...],
    replace_days: bool,
    little_endian: bool,
    again: bool,
    dry_run: bool,
    cancel: bool,
) -> None:
    """Read the fills of a time range (ISO dates or times, UTC, half-open), beside a running loop if there is one.

    With --parquet ClickHouse itself reads the files of an archive; their licence is your affair.

    \b
    A month:              backfill --from 2026-05-01 --to 2026-06-01
    All since a moment:   backfill --from 2026-04-01T12:00
    An archive:           backfill --parquet 'https://example.org/fills/{2024..2026}.parquet'
    """
    from pipeline.jobs import backfill as backfilling
    from pipeline.verbs.report import print_plan
    from pipeline.warehouse.run import open_run

    if cancel:
        refuse_ignored(context, "--cancel", {"source"})
    if patterns:
        _backfill_parquet(context, patterns, replace_days, little_endian, again, dry_run)
        return
    if replace_days or little_endian:
        raise click.UsageError("--replace-days and --little-endian go with --parquet only")
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


def _backfill_parquet(
    context: click.Context,
    patterns: tuple[str, ...],
    replace_days: bool,
    little_endian: bool,
    again: bool,
    dry_run: bool,
) -> None:
    from pipeline.jobs.archive_plan import Request, allowing, make_plan
    from pipeline.jobs.parquet import backfill_parquet
    from pipeline.verbs.report import print_archive
    from pipeline.warehouse.run import open_run

    refuse_ignored(
        context, "--parquet", {"patterns", "replace_days", "little_endian", "again", "dry_run"}
    )
    request = Request(patterns, again, replace_days, little_endian)
    with verb(context) as settings, open_run(allowing(settings, patterns)) as run:
        if not dry_run:
            backfill_parquet(run, request)
            return
        with make_plan(run, request) as plan:
            print_archive(plan)


@click.command()
@click.option(
    "--source",
    type=click.Choice(sorted(name for each in SOURCES for name in each.letters)),
    help="Only dead letters of this source.",
)
@click.option("--reason", help="Only those of this reason, as `status` names it.")
@click.option("--dry-run", is_flag=True, help="Only count what would be replayed.")
@click.pass_context
def replay(context: click.Context, source: str | None, reason: str | None, dry_run: bool) -> None:
    """Parse records again that could not be parsed, once that is fixed: land them, settle, and say what is left."""
    from pipeline.jobs import replay as replaying
    from pipeline.verbs.report import print_replay
    from pipeline.warehouse.run import open_run

    with verb(context) as settings, open_run(settings) as run:
        print_replay(replaying.replay(run, source, reason, dry_run=dry_run), dry_run=dry_run)


COMMANDS = (once, loop, cron, backfill, replay)

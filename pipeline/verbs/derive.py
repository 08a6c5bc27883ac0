"""What is derived inside the database: again, by this version, compared, and by dbt."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from pipeline.errors import TablesDiffer
from pipeline.verbs.frame import verb


@click.command()
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


@click.command()
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


@click.command()
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


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
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


COMMANDS = (rebuild, upgrade, verify, dbt)

"""Backups, and exports."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.verbs.frame import verb


@click.command()
@click.argument("target", required=False, type=click.Path(path_type=Path), metavar="[FILE]")
@click.pass_context
def backup(context: click.Context, target: Path | None) -> None:
    """Write one backup of everything to FILE (or a folder; else `backups` of the data folder), beside a loop too.

    For the embedded ClickHouse. A loop that runs writes it when its cycle is over.
    """
    from pipeline.jobs import backup as backing_up
    from pipeline.verbs.kept import print_backup
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        backing_up.refuse_server(settings, "backup")
        with open_run(settings) as run:
            print_backup(backing_up.backup(run, target))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Drop what the databases hold.")
@click.pass_context
def restore(context: click.Context, file: Path, replace: bool) -> None:
    """Put everything back to where the backup FILE stood; the next run goes on from there. Stop a loop first."""
    from pipeline.jobs import restore as restoring
    from pipeline.jobs.backup import refuse_server
    from pipeline.verbs.kept import print_restored
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        refuse_server(settings, "restore")
        with open_run(settings) as run:
            print_restored(restoring.restore(run, file, replace=replace))


@click.command()
@click.argument("table")
@click.option("--from", "from_text", metavar="DATE", help="First day (UTC).")
@click.option("--to", "to_text", metavar="DATE", help="The day after the last.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder; files go into TABLE of it.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(("parquet", "csv", "jsonl")),
    default="parquet",
    show_default=True,
)
@click.option(
    "--by", type=click.Choice(("day", "month")), help="What a file holds; else as suits the table."
)
@click.option("--columns", metavar="NAMES", help="Columns, by comma; else all.")
@click.option("--where", default="", metavar="CONDITION", help="Condition in SQL on the columns.")
@click.option("--market", metavar="ID", help="Rows of one market_id.")
@click.option("--token", metavar="ID", help="Rows of one token_id.")
@click.option(
    "--decimals", type=click.Choice(("exact", "double")), default="exact", show_default=True,
    help="Prices and amounts as decimals, or as doubles.",
)  # fmt: skip
@click.option(
    "--compress", type=click.Choice(("none", "gz", "zst")), default="none", show_default=True,
    help="For csv and jsonl.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Write every file anew, of other options too.")
@click.pass_context
def export(
    context: click.Context,
    table: str,
    from_text: str | None,
    to_text: str | None,
    out: Path,
    form: str,
    by: str | None,
    columns: str | None,
    where: str,
    market: str | None,
    token: str | None,
    decimals: str,
    compress: str,
    overwrite: bool,
) -> None:
    """Write TABLE as files, one per day or month, in Hive paths; run again, what is missing or has changed."""
    from pipeline.export.export import Wanted
    from pipeline.export.export import export as export_table
    from pipeline.timerange import parse_bounds
    from pipeline.verbs.kept import print_exported
    from pipeline.warehouse.run import open_run

    equal = (("market_id", market), ("token_id", token))
    with verb(context) as settings:
        start, end = parse_bounds(from_text, to_text)
        wanted = Wanted(
            table,
            out,
            start,
            end,
            by,
            form,
            columns,
            where.strip(),
            tuple((name, value) for name, value in equal if value is not None),
            decimals == "double",
            compress,
            overwrite,
        )
        with open_run(settings) as run:
            print_exported(export_table(run, wanted))


COMMANDS = (backup, restore, export)

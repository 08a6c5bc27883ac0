"""Backups."""

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
    from pipeline.verbs.report import print_backup
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
    from pipeline.verbs.report import print_restored
    from pipeline.warehouse.run import open_run

    with verb(context) as settings:
        refuse_server(settings, "restore")
        with open_run(settings) as run:
            print_restored(restoring.restore(run, file, replace=replace))


COMMANDS = (backup, restore)

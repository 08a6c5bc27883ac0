"""Applies the numbered SQL files of `schema/`, once each.

What was applied is recorded with a checksum; a file that was edited afterwards is refused, because databases that have
the old text would silently differ. Statements are written so that a migration that was cut off can be run again.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import Template

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from ingest.events import Event, happened
from pipeline.errors import SchemaError
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.client import first_line

SCHEMA_DIR = PROJECT_DIR / "schema"
FILE_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
BOOKS = """
create database if not exists ${raw} ${on_cluster};
create table if not exists ${raw}.schema_migrations ${on_cluster}
(
    number UInt32 comment 'number of the file in schema/',
    name String comment 'its name',
    checksum String comment 'SHA-256 of its text',
    applied_at DateTime64(6, 'UTC') default now64(6) comment 'when it was applied'
)
engine = ${replicated}ReplacingMergeTree(applied_at)
order by number
comment 'Migrations of schema/ that this database has';
"""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Migration:
    """One file of `schema/`: its number, name, and text before any setting is filled in."""

    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(folder: Path = SCHEMA_DIR) -> list[Migration]:
    """Read the migrations in order.

    Raises:
        SchemaError: a file name is off, a number is missing, or two files share one.
    """
    migrations = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.match(path.name)
        if match is None:
            raise SchemaError(f"schema/{path.name} is not named NNNN_what.sql")
        migrations.append(Migration(int(match[1]), path.stem, path.read_text()))
    for number, (before, migration) in enumerate(pairwise([None, *migrations]), start=1):
        if before is not None and before.number == migration.number:
            raise SchemaError(f"{before.name} and {migration.name} share a number: renumber one")
        if migration.number != number:
            raise SchemaError(
                f"no file of schema/ has number {number}, but {migration.name} is there"
            )
    return migrations


def render(text: str, settings: Settings) -> list[str]:
    """Fill in database names and cluster clauses, and split into statements without comments.

    A statement ends with a semicolon at the end of a line.
    """
    cluster = settings.clickhouse_cluster
    filled = Template(text).substitute(
        raw=settings.raw_database,
        models=settings.clickhouse_database,
        on_cluster=f"on cluster '{cluster}'" if cluster else "",
        replicated="Replicated" if cluster else "",
    )
    code = "\n".join(line for line in filled.splitlines() if not line.lstrip().startswith("--"))
    return [part.strip() for part in re.split(r";\s*(?:\n|$)", code) if part.strip()]


def migrate(client: Client, settings: Settings, folder: Path = SCHEMA_DIR) -> list[str]:
    """Bring the landing schema up to date and return the names of the migrations applied now.

    Raises:
        SchemaError: an applied migration was edited or is missing here, or a statement failed.
    """
    migrations = read_migrations(folder)
    applied = _applied(client, settings)
    _refuse_differences(migrations, applied)
    fresh = [migration for migration in migrations if migration.number not in applied]
    for migration in fresh:
        _apply(client, settings, migration)
        log.info("schema: applied %s", migration.name)
    return [migration.name for migration in fresh]


def _applied(client: Client, settings: Settings) -> dict[int, tuple[str, str]]:
    """Name and checksum of the applied migrations by number."""
    _execute(client, "the table of migrations", render(BOOKS, settings))
    raw = settings.raw_database
    rows = client.query(
        f"select number, name, checksum from {raw}.schema_migrations final"
    ).result_rows
    return {number: (name, checksum) for number, name, checksum in rows}


def _refuse_differences(migrations: list[Migration], applied: dict[int, tuple[str, str]]) -> None:
    known = {migration.number: migration for migration in migrations}
    for number, (name, checksum) in sorted(applied.items()):
        if number not in known:
            raise SchemaError(
                f"the database has migration {name}, which this version lacks: update the project"
            )
        if known[number].checksum != checksum:
            raise SchemaError(
                f"schema/{known[number].name}.sql was edited after it was applied: restore it and add a new file"
            )


def _apply(client: Client, settings: Settings, migration: Migration) -> None:
    try:
        statements = render(migration.text, settings)
    except (KeyError, ValueError) as error:  # of string.Template
        raise SchemaError(f"schema/{migration.name}.sql has a bad placeholder: {error}") from error
    _execute(client, f"schema/{migration.name}.sql", statements)
    client.insert(
        "schema_migrations",
        [[migration.number, migration.name, migration.checksum]],
        column_names=["number", "name", "checksum"],
        database=settings.raw_database,
    )


def _execute(client: Client, where: str, statements: list[str]) -> None:
    for statement in statements:
        try:
            client.command(statement)
        except DatabaseError as error:
            raise SchemaError(f"{where} failed: {first_line(error)}") from error
    happened(Event.MIGRATION_EXECUTED, name=where)

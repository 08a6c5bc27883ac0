"""Migrations: each applied once and recorded, edits and newer databases refused, a cut-off one done again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds import make_settings

from embedded_clickhouse import Endpoint
from pipeline.errors import SchemaError
from pipeline.settings import Settings
from pipeline.warehouse.migrations import BOOKS, migrate, read_migrations, render
from pipeline.warehouse.run import Run, open_run

NAMES = [migration.name for migration in read_migrations()]
TABLE = "create table if not exists ${raw}.%s (a UInt8) engine = MergeTree order by a;\n"


@pytest.fixture
def empty(settings: Settings) -> Iterator[Run]:
    """An open run on databases that are not there yet."""
    with open_run(settings) as run:
        yield run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A `schema/` of two files."""
    folder = tmp_path / "schema"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(TABLE % "one")
    (folder / "0002_second.sql").write_text("-- two\n" + TABLE % "two" + TABLE % "three")
    return folder


def tables(run: Run) -> dict[str, str]:
    """Definitions of the tables of the landing database, by name."""
    return dict(
        run.client.query(
            "select name, create_table_query from system.tables where database = {database:String}",
            parameters={"database": run.settings.raw_database},
        ).result_rows
    )


def recorded(run: Run) -> list[str]:
    raw = run.settings.raw_database
    rows = run.client.query(f"select name from {raw}.schema_migrations order by number").result_rows
    return [name for (name,) in rows]


def test_each_is_applied_once_and_recorded(empty: Run) -> None:
    assert migrate(empty.client, empty.settings) == NAMES
    assert recorded(empty) == NAMES
    made = tables(empty)
    assert {"loads", "dead_letters", "order_filled", "markets", "events"} <= made.keys()
    assert migrate(empty.client, empty.settings) == []
    assert recorded(empty) == NAMES
    assert tables(empty) == made


def test_a_new_file_is_applied_to_what_is_there(empty: Run, folder: Path) -> None:
    migrate(empty.client, empty.settings, folder)
    (folder / "0003_third.sql").write_text("drop table ${raw}.two;\n" + TABLE % "four")
    assert migrate(empty.client, empty.settings, folder) == ["0003_third"]
    assert tables(empty).keys() == {"schema_migrations", "one", "three", "four"}


def test_an_edited_file_is_refused(empty: Run, folder: Path) -> None:
    migrate(empty.client, empty.settings, folder)
    (folder / "0001_first.sql").write_text(TABLE % "one_and_a_half")
    (folder / "0003_third.sql").write_text(TABLE % "four")
    with pytest.raises(SchemaError, match=r"schema/0001_first\.sql was edited .* add a new file"):
        migrate(empty.client, empty.settings, folder)
    assert "four" not in tables(empty)


def test_a_database_that_is_ahead_of_the_project_is_refused(empty: Run, folder: Path) -> None:
    migrate(empty.client, empty.settings, folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(SchemaError, match=r"has migration 0002_second, .* update the project"):
        migrate(empty.client, empty.settings, folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("create table ${raw}.x (a Nonsense) engine = MergeTree order by a;", "Nonsense"),
        ("create table ${raw}.x (a UInt8) engine = ${engine};", "placeholder: 'engine'"),
        ("select '$';", "placeholder: Invalid placeholder"),
    ],
)
def test_a_bad_statement_names_its_file(empty: Run, folder: Path, text: str, told: str) -> None:
    (folder / "0003_bad.sql").write_text(TABLE % "four" + text)
    with pytest.raises(SchemaError, match=r"schema/0003_bad\.sql ") as failure:
        migrate(empty.client, empty.settings, folder)
    assert told in str(failure.value)
    assert "\n" not in str(failure.value)
    assert recorded(empty) == ["0001_first", "0002_second"]
    (folder / "0003_bad.sql").write_text(TABLE % "four" + TABLE % "five")
    assert migrate(empty.client, empty.settings, folder) == ["0003_bad"]


def test_a_migration_that_was_cut_off_anywhere_can_be_run_again(empty: Run) -> None:
    migrate(empty.client, empty.settings)
    whole = tables(empty)
    statements = [
        statement
        for migration in read_migrations()
        for statement in render(migration.text, empty.settings)
    ]
    for done in [*range(0, len(statements), 4), len(statements)]:
        for database in (empty.settings.raw_database, empty.settings.clickhouse_database):
            empty.client.command(f"drop database {database}")
        for statement in [*render(BOOKS, empty.settings), *statements[:done]]:
            empty.client.command(statement)
        assert migrate(empty.client, empty.settings) == NAMES
        assert tables(empty) == whole


def test_a_cluster_shows_in_every_definition(clickhouse: Endpoint, tmp_path: Path) -> None:
    settings = make_settings(clickhouse, "p", tmp_path, clickhouse_cluster="main")
    for text in (BOOKS, *(migration.text for migration in read_migrations())):
        for statement in render(text, settings):
            assert statement.lower().count("on cluster 'main'") == 1, statement
            engines = re.findall(r"engine\s*=\s*(\w+)", statement)
            assert all(engine.startswith("Replicated") for engine in engines), statement
            assert len(engines) == (1 if statement.startswith("create table") else 0)


def test_without_a_cluster_no_definition_speaks_of_one(
    clickhouse: Endpoint, tmp_path: Path
) -> None:
    settings = make_settings(clickhouse, "p", tmp_path)
    for text in (BOOKS, *(migration.text for migration in read_migrations())):
        for statement in render(text, settings):
            assert "cluster" not in statement.lower()
            assert "replicated" not in statement.lower()


def test_a_statement_ends_with_a_semicolon_at_the_end_of_a_line(
    clickhouse: Endpoint, tmp_path: Path
) -> None:
    text = (
        "-- about; this\nselect ';' from ${raw}.a;\n\nselect 2\n  -- and that\nfrom ${models}.b; \n"
    )
    assert render(text, make_settings(clickhouse, "p", tmp_path)) == [
        "select ';' from p_raw.a",
        "select 2\nfrom p.b",
    ]


def test_files_are_numbered_without_gaps_or_ties(folder: Path) -> None:
    assert [migration.number for migration in read_migrations(folder)] == [1, 2]
    (folder / "0002_again.sql").write_text("select 1;")
    with pytest.raises(SchemaError, match="0002_again and 0002_second share a number"):
        read_migrations(folder)
    (folder / "0002_again.sql").rename(folder / "0004_later.sql")
    with pytest.raises(SchemaError, match="no file of schema/ has number 3"):
        read_migrations(folder)


@pytest.mark.parametrize("name", ["3_third.sql", "0003.sql", "0003-third.sql", "0003_Third.sql"])
def test_files_are_named_by_number_and_what_they_do(folder: Path, name: str) -> None:
    (folder / name).write_text("select 1;")
    with pytest.raises(SchemaError, match=re.escape(f"schema/{name} is not named NNNN_what.sql")):
        read_migrations(folder)

"""The landing database explains itself, and its view of dead letters counts what happened."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.settings import Settings
from pipeline.warehouse.migrations import migrate
from pipeline.warehouse.run import Run, open_run

SEEN_AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
COLUMNS = ["source", "reason", "payload_hash", "detail", "payload", "seen_at", "load_id"]


def uncommented(run: Run, what: str, where: str) -> list[str]:
    """Names in the landing database without a comment, dlt's own tables aside."""
    rows = run.client.query(
        f"select {what} from system.{where} where database = {{database:String}}"
        " and empty(comment) and not startsWith(table, '_dlt_')",
        parameters={"database": run.settings.raw_database},
    ).result_rows
    return [name for (name,) in rows]


def test_every_table_view_and_column_is_commented(run: Run) -> None:
    with run.lock.held("test"):
        assert uncommented(run, "table", "tables") == []
        assert uncommented(run, "table || '.' || name", "columns") == []


def test_both_databases_are_commented(settings: Settings) -> None:
    """Made by the migrations, although the lock has made the landing database before them."""
    with open_run(settings) as run, run.lock.held("test"):
        migrate(run.client, settings)
        rows = run.client.query(
            "select comment from system.databases where startsWith(name, {prefix:String})",
            parameters={"prefix": settings.clickhouse_database},
        ).result_rows
    assert len(rows) == 2
    assert all(comment.startswith("Polymarket ELT: ") for (comment,) in rows)


def see(run: Run, load_id: int, payload: str, *, after_s: int, detail: str = "no price") -> None:
    """Land one record that could not be parsed."""
    seen_at = SEEN_AT + timedelta(seconds=after_s)
    row = ["polygon", "bad_log", hash(payload) % 2**64, detail, payload, seen_at, load_id]
    run.client.insert(
        "dead_letter_sightings", [row], column_names=COLUMNS, database=run.settings.raw_database
    )


@pytest.mark.parametrize("merged", [False, True])
def test_dead_letters_count_loads_not_insertions(run: Run, merged: bool) -> None:
    raw = run.settings.raw_database
    see(run, 1, "a", after_s=0)
    see(run, 1, "a", after_s=0)  # the same load, retried
    see(run, 2, "a", after_s=60, detail="no price either")
    see(run, 2, "b", after_s=60)
    if merged:
        run.client.command(f"optimize table {raw}.dead_letter_sightings final")
    found = run.client.query(
        f"select payload, detail, times_seen, first_seen_at, last_seen_at from {raw}.dead_letters"
        " order by payload"
    ).result_rows
    later = SEEN_AT + timedelta(seconds=60)
    assert [(*row[:3], *(at.replace(tzinfo=UTC) for at in row[3:])) for row in found] == [
        ("a", "no price either", 2, SEEN_AT, later),
        ("b", "no price", 1, later, later),
    ]

"""Bytes on the disk by table, as `status` tells them: those of ClickHouse's parts, divided by the fills."""

from __future__ import annotations

import pytest
from worlds import all_fills, land, settle_all, small_world

from pipeline.verbs.report import print_status
from pipeline.verbs.status import read_status
from pipeline.warehouse.run import Run


def parts_of(run: Run) -> dict[tuple[str, str], int]:
    database = run.settings.clickhouse_database
    rows = run.client.query(
        "select database, table, sum(bytes_on_disk) from system.parts"
        " where active and database in {names:Array(String)} and rows > 0 group by database, table",
        parameters={"names": [database, f"{database}_raw"]},
    ).result_rows
    return {(each, table): size for each, table, size in rows}


def test_status_tells_bytes_by_table_and_by_fill(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    fills = all_fills(small_world())
    land(run, fills)
    land(run, fills)  # a copy in raw is no fill, and takes its bytes
    settle_all(run)
    run.client.command("system stop merges")
    try:
        status, parts = read_status(run), parts_of(run)
    finally:
        run.client.command("system start merges")
    assert {(each.database, each.table): each.bytes for each in status.sizes} == parts
    sizes = [each.bytes for each in status.sizes]
    assert sizes == sorted(sizes, reverse=True)
    for each in status.sizes:
        assert each.bytes_per_fill == pytest.approx(each.bytes / len(fills), abs=0.01)
    told = status.to_json()
    assert told["bytes"] == sum(parts.values())
    assert told["bytes_per_fill"] == pytest.approx(told["bytes"] / len(fills), rel=0.01)

    print_status(status)
    shown = capsys.readouterr().out
    assert f"{run.settings.raw_database}.order_filled" in shown
    assert f"{told['bytes_per_fill']:,.1f}" in shown
    assert "_raw.settled_tables" not in shown  # less than a hundredth


def test_without_fills_there_are_no_bytes_per_fill(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    status = read_status(run)
    assert status.sizes  # its books
    assert {each.bytes_per_fill for each in status.sizes} == {None}
    assert status.to_json()["bytes_per_fill"] is None
    print_status(status)
    assert "None" not in capsys.readouterr().out

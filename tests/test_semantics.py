"""docs/semantics.md is true: its raw rows give its tables, its analysis says what it says, and the dbt docs are whole.

The page is executed from top to bottom. A caption names a table in bold: `order_filled` with rows to land, `markets`
with a payload to land, or any other table with a condition, followed by the rows that ClickHouse must answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from worlds import (
    COLUMNS,
    all_fills,
    land,
    land_gamma,
    make_settings,
    prepared,
    settle_all,
    small_world,
)

from embedded_clickhouse import Endpoint
from pipeline.derive.dbt import DBT_DIR, dbt_command
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.loads import now_us
from pipeline.warehouse.run import Run
from sandbox.contracts import EXCHANGES
from sandbox.truth import Truth

PAGE = (PROJECT_DIR / "docs/semantics.md").read_text()
CAPTION = re.compile(r"^\*\*(\w+)\*\* (.*)$", re.MULTILINE)
RAW = re.compile(r"of transaction `(\w+)`, (v1|v2|v3)(?: archive|, block (\d+)), ([\d :-]{19}):$")
WHERE = re.compile(r"where `(.+)`( is empty\.|:)$")

Table = tuple[list[str], list[list[str]]]


def table_after(position: int) -> Table:
    """Header and rows of the Markdown table that follows a position of the page."""
    lines = PAGE[position:].lstrip("\n").split("\n\n")[0].splitlines()
    assert lines[0].startswith("|"), lines[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], cells[2:]


def payload_after(position: int) -> dict[str, Any]:
    return json.loads(PAGE[position:].split("```json\n")[1].split("```")[0])


def raw_rows(caption: str, table: Table) -> list[list]:
    """The rows of a table of `order_filled`, as a source lands them."""
    tx_hash, version, block, filled_at = RAW.match(caption).groups()
    exchange = EXCHANGES[version, False]
    header, rows = table
    load_id = now_us()
    landed = []
    for cells in rows:
        row = dict.fromkeys(COLUMNS, "") | dict(zip(header, cells, strict=True))
        row["taker"] = exchange if row["taker"] == "exchange" else row["taker"]
        row |= {
            "timestamp": datetime.fromisoformat(filled_at).replace(tzinfo=UTC),
            "block_number": int(block or 0),
            "log_index": int(row["log_index"] or 0),
            "tx_hash": tx_hash,
            "order_hash": row["order_hash"] or f"order {row['log_index']}",
            "contract_version": version,
            "exchange": exchange if block or row["taker"] == exchange else "",
            "source": "polygon" if block else "goldsky",
            "is_deleted": 0,
            "load_id": load_id,
        }
        row |= {name: int(row[name]) for name in ("maker_amount", "taker_amount", "fee")}
        landed.append([row[name] for name in COLUMNS])
    return landed


def land_rows(run: Run, table: str, columns: list[str], rows: list[list]) -> None:
    run.ledger.open(rows[0][columns.index("load_id")], [table])
    run.client.insert(table, rows, column_names=columns, database=run.settings.raw_database)
    run.ledger.close_loading([rows[0][columns.index("load_id")]])
    settle_all(run)


def land_market(run: Run, payload: dict[str, Any]) -> None:
    columns = ["market_id", "content_hash", "fetched_at", "closed", "payload", "load_id"]
    row = [payload["id"], 1, datetime.now(UTC), True, json.dumps(payload), now_us()]
    land_rows(run, "markets", columns, [row])


def answer(run: Run, table: str, condition: str, columns: list[str]) -> list[list[str]]:
    """What ClickHouse says, each value as the page writes it."""
    values = ", ".join(f"ifNull(toString({column}), 'null')" for column in columns)
    database = run.settings.clickhouse_database
    query = f"select {values} from {database}.{table} where {condition}"
    return [list(row) for row in run.client.query(query).result_rows]


def test_the_page_is_what_the_pipeline_does(run: Run) -> None:
    compared = set()
    for caption in CAPTION.finditer(PAGE):
        table, rest = caption.groups()
        if table == "order_filled":
            land_rows(run, table, COLUMNS, raw_rows(rest, table_after(caption.end())))
        elif table == "markets":
            land_market(run, payload_after(caption.end()))
        else:
            condition, ending = WHERE.match(rest).groups()
            empty = ending == " is empty."
            columns, rows = (["1"], []) if empty else table_after(caption.end())
            assert sorted(answer(run, table, condition, columns)) == sorted(rows), caption.group()
            compared.add(table)
    assert compared >= {
        *("order_fills", "trades", "trade_legs", "wallet_fills"),
        *("ohlcv_1h", "market_ohlcv_1h", "ohlcv_1h_filled"),
    }


def test_the_page_shows_every_way_to_match() -> None:
    shown = re.findall(r"\b(complementary|mint|merge|mixed|direct)\b", PAGE)
    assert set(shown) == {"complementary", "mint", "merge", "mixed", "direct"}


@pytest.fixture(scope="module")
def loaded(
    clickhouse: Endpoint, template: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    """A run whose databases hold a small world."""
    settings = make_settings(clickhouse, "t_semantics", tmp_path_factory.mktemp("semantics"))
    with prepared(settings, template) as run:
        run.world = small_world()
        land_gamma(run, run.world)
        land(run, all_fills(run.world))
        settle_all(run)
        yield run
        for database in (settings.clickhouse_database, settings.raw_database):
            run.client.command(f"drop database {database}")


def comparisons(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """What the command of the page prints, as JSON: rows of the analysis by transform and measure."""
    show = ["show", "--quiet", "--select", "how_peers_count", "--limit", "-1", "--output", "json"]
    capsys.readouterr()
    assert dbt_command(run.server, run.settings, show) == 0
    printed = capsys.readouterr().out
    rows = json.loads(printed[printed.index("{") :])["show"]
    return {(row["transform"], row["measure"]): row for row in rows}


def test_the_analysis_finds_what_the_truth_says(
    loaded: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    found = comparisons(loaded, capsys)
    ratios = {key: row["ratio"] for key, row in found.items()}
    truth = Truth(loaded.world)
    fills, trades = truth.order_fills, truth.trades
    official = sum(trade["usd"] for trade in trades if not trade["is_dust"])

    def close(key: tuple[str, str], theirs: float, here: float) -> bool:
        return ratios[key] == pytest.approx(theirs / here, abs=0.0006)

    all_usd = sum(fill["usd"] for fill in fills)
    assert ratios["all legs", "matched shares"] == 2
    assert close(("all legs", "volume, $"), all_usd, official)
    assert close(("half of all legs", "volume, $"), all_usd / 2, official)
    assert close(("all legs", "trades"), len(fills), len(trades))
    assert close(("maker legs", "volume, $"), sum(trade["maker_usd"] for trade in trades), official)
    assert close(("shares as dollars", "volume, $"), sum(f["shares"] for f in fills), official)
    fees, fees_usd = sum(fill["fee"] for fill in fills), sum(fill["fee_usd"] for fill in fills)
    assert close(("fee / 1e6", "fees, $"), fees, fees_usd)
    assert fees > 1.1 * fees_usd

    takers = {trade["trade_id"]: trade for trade in trades}
    makers = [leg for leg in truth.trade_legs() if leg["leg"] == "maker"]
    right = [leg for leg in makers if is_inverse(leg, takers[leg["trade_id"]])]
    assert close(("taker = not maker", "right sides"), len(right), len(makers))
    assert len(right) < len(makers)

    # What depends on which rows are lost, repeated or left out has a direction only.
    for key in [
        ("half of all legs", "tokens within 1 %"),
        ("maker legs", "tokens within 1 %"),
        ("one fill per tx", "volume, $"),
        ("one exchange", "V2 volume, $"),
        ("candles of all legs", "high and low right"),
    ]:
        assert ratios[key] < 1, key
    for key in [
        ("accumulated twice", "volume, $"),
        ("candles of all legs", "candles"),
        ("candles of all legs", "highest price, $"),
    ]:
        assert ratios[key] > 1, key
    assert list(found) == peers_of_the_page()


def is_inverse(leg: dict, taker: dict) -> bool:
    return leg["token_id"] == taker["token_id"] and leg["side"] != taker["side"]


def peers_of_the_page() -> list[tuple[str, str]]:
    """Transform and measure of each row of the page's table of peers."""
    header, rows = table_after(PAGE.index("| transform |"))
    return [(row[header.index("transform")], row[header.index("measure")]) for row in rows]


def test_every_model_has_a_group_and_every_promised_table_a_reader(loaded: Run) -> None:
    assert dbt_command(loaded.server, loaded.settings, ["parse", "--quiet"]) == 0
    manifest = json.loads((DBT_DIR / "target/manifest.json").read_text())
    nodes = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert [node["name"] for node in nodes if node["group"] != node["fqn"][1]] == []
    read = {id for each in manifest["exposures"].values() for id in each["depends_on"]["nodes"]}
    internal = re.compile(r"^(base|stg|int)_|_(store|mv)$")
    promised = {node["unique_id"] for node in nodes if not internal.search(node["name"])}
    assert len(promised) > 20
    assert promised - read == set()

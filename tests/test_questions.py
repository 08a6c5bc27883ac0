"""docs/questions.md is true: its queries answer as those of the tables sorted by time do, from fewer rows."""

from __future__ import annotations

import re

import pytest
from worlds import all_fills, land, land_gamma, settle_all, small_world

from pipeline.settings import PROJECT_DIR
from pipeline.warehouse.run import Run

PAGE = (PROJECT_DIR / "docs/questions.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
# What a table that is sorted by a question is a copy of.
SORTED_BY_TIME = {"trades_by_token": "trades", "fills_by_wallet": "wallet_fills"}


@pytest.fixture
def loaded(run: Run) -> Run:
    """A run whose databases hold a small world."""
    world = small_world()
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    return run


def test_every_query_finds_what_the_tables_by_time_hold(loaded: Run) -> None:
    loaded.client.database = loaded.settings.clickhouse_database
    market, wallet, transaction = loaded.client.query(
        "select market_id, wallet, tx_hash from trades where market_id != ''"
        " order by count() over (partition by wallet) desc, trade_id limit 1"
    ).result_rows[0]
    assert len(QUERIES) == 5
    for query in QUERIES:
        text = query.replace("512345", market)
        text = text.replace("0x…", wallet if "wallet = '0x…'" in text else transaction)
        found = loaded.client.query(text).result_rows
        assert found, text
        for copy, original in SORTED_BY_TIME.items():
            text = text.replace(copy, original)
        text = re.sub(r"and filled_at in .*", "", text)
        assert sorted(found) == sorted(loaded.client.query(text).result_rows), query


@pytest.mark.parametrize(
    ("table", "column"), [("trades_by_token", "token_id"), ("fills_by_wallet", "wallet")]
)
def test_the_first_column_of_the_key_is_what_is_asked_for(
    loaded: Run, table: str, column: str
) -> None:
    database = loaded.settings.clickhouse_database
    [plan] = loaded.client.query(
        f"explain json = 1, indexes = 1 select * from {database}.{table} where {column} = '1'"
    ).result_rows[0]
    assert re.search(rf'"Keys": \["{column}"\]', " ".join(plan.split())), plan

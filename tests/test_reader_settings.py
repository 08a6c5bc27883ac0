"""Results do not depend on the settings of whoever builds, loads or reads: those that could change them are pinned.

A server whose profile says the opposite of what is pinned builds the models, settles a world and is read by a client
that sends no setting. chDB has no users: a server process of its own gives every session such a profile.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
import requests
import yaml
from clickhouse_connect.driver.client import Client
from worlds import (
    PATIENCE_S,
    all_fills,
    assert_equals_truth,
    land,
    land_gamma,
    make_settings,
    settle_all,
    small_world,
)

from embedded_clickhouse import Endpoint
from ingest.query_settings import PINNED
from pipeline.derive.dbt import DBT_DIR
from pipeline.derive.prepare import prepare
from pipeline.settings import PROJECT_DIR, Settings
from pipeline.warehouse.run import Run, open_run

# The opposite of what is pinned. A limit whose overflow mode is not `throw` would make results partial; those are
# compared by name only, because with the mode pinned such a limit is an error.
HOSTILE: dict[str, str] = {
    "aggregate_functions_null_for_empty": "1",
    "any_join_distinct_right_table_keys": "1",
    "cast_keep_nullable": "1",
    "data_type_default_nullable": "1",
    "decimal_check_overflow": "0",
    "empty_result_for_aggregation_by_empty_set": "1",
    "final": "1",
    "group_by_use_nulls": "1",
    "join_default_strictness": "ANY",
    "join_use_nulls": "1",
    "materialized_views_ignore_errors": "1",
    "prefer_column_name_to_alias": "1",
    "session_timezone": "America/New_York",
    "single_join_prefer_left_table": "0",
    "transform_null_in": "1",
}
# Settings that were found to change nothing, and are not pinned.
HARMLESS: dict[str, str] = {
    "cast_string_to_date_time_mode": "best_effort",
    "date_time_input_format": "best_effort_us",
    "do_not_merge_across_partitions_select_final": "1",
    "enable_extended_results_for_datetime_functions": "1",
    "except_default_mode": "DISTINCT",
    "intersect_default_mode": "DISTINCT",
    "max_block_size": "97",
    "max_threads": "1",
    "optimize_read_in_order": "0",
    "union_default_mode": "DISTINCT",
    "use_legacy_to_time": "0",
}
# What a profile can do to a user who may change no setting (`readonly = 1`): ClickHouse does not apply the settings in
# the text of a view for them, so the SQL itself does without.
HOSTILE_READ_ONLY = {
    name: HOSTILE[name]
    for name in ("join_use_nulls", "join_default_strictness", "single_join_prefer_left_table")
}
PASSWORD = "hostile"
SERVER = """
import sys
from pathlib import Path
from embedded_clickhouse import engine
from embedded_clickhouse.server import Access, serve
engine._SERVER_BEHAVIOUR += sys.argv[2]
serve(
    Path(sys.argv[1]), 0, access=Access(sys.argv[3]), on_ready=lambda host, port: print(port, flush=True)
)
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A ClickHouse whose profile says the opposite of everything that is pinned."""
    profile = "".join(f"&{name}={value}" for name, value in (HOSTILE | HARMLESS).items())
    arguments = [sys.executable, "-c", SERVER, tmp_path_factory.mktemp("hostile")]
    arguments += [profile, PASSWORD]
    with subprocess.Popen(
        arguments, cwd=PROJECT_DIR, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        port = int(server.stdout.readline())
        yield Endpoint("127.0.0.1", port, server.pid, password=PASSWORD)
        server.terminate()


@pytest.fixture(scope="module")
def loaded(hostile: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A world that was built, loaded and settled there."""
    settings = make_settings(hostile, "hostile", tmp_path_factory.mktemp("run"))
    with open_run(settings) as run:
        prepare(run)
        run.world = small_world(matches=200)
        fills = all_fills(run.world)
        land_gamma(run, run.world)
        land(run, fills[::2])
        settle_all(run)
        land(run, fills[1::2])
        settle_all(run)
        yield run


def reader(endpoint: Endpoint) -> Client:
    """A client that sends no setting of its own."""
    return clickhouse_connect.get_client(
        host=endpoint.host,
        port=endpoint.port,
        password=endpoint.password,
        autogenerate_session_id=False,
    )


def views(run: Run) -> list[str]:
    found = run.client.query(
        "select name from system.tables where database = {database:String} and engine = 'View' order by name",
        parameters={"database": run.settings.clickhouse_database},
    )
    return [name for (name,) in found.result_rows]


def few_tokens(run: Run) -> str:
    """A condition on views that would have millions of rows: the tokens with the shortest lives."""
    tokens = run.client.query(
        f"select token_id from {run.settings.clickhouse_database}.ohlcv_1d_filled"
        " group by token_id order by count(), token_id limit 5"
    ).result_columns[0]
    return f"where token_id in ({', '.join(map(repr, tokens))})"


def contents(run: Run, read: Callable[[str], Any]) -> dict[str, Any]:
    """What `read` answers for a query of each view."""
    database, few = run.settings.clickhouse_database, few_tokens(run)
    return {
        view: read(f"select * from {database}.{view} {few if view.endswith('_filled') else ''}")
        for view in views(run)
    }


def read_with(client: Client) -> Callable[[str], Any]:
    """Types and rows of an answer, in any order."""

    def read(query: str) -> Any:
        result = client.query(query)
        return [each.name for each in result.column_types], sorted(map(repr, result.result_rows))

    return read


def test_the_profile_is_hostile(hostile: Endpoint) -> None:
    names = ", ".join(map(repr, HOSTILE))
    rows = reader(hostile).query(f"select name, value from system.settings where name in ({names})")
    assert dict(rows.result_rows) == HOSTILE
    for name, value in HOSTILE.items():
        assert value != str(PINNED[name]), name


def test_a_build_and_a_settle_under_a_hostile_profile_are_right(loaded: Run) -> None:
    assert_equals_truth(loaded, loaded.world)


def test_a_reader_with_a_hostile_profile_reads_the_same(loaded: Run, hostile: Endpoint) -> None:
    raw, models = loaded.settings.raw_database, loaded.settings.clickhouse_database
    loaded.client.command(
        f"insert into {raw}.market_prices (token_id, observed_at, bid, ask, mid, spread, load_id)"
        f" select token_id, now64(6), 0.4, 0.6, 0.5, 0.2, 1 from {models}.outcome_tokens"
    )
    expected = contents(loaded, read_with(loaded.client))
    assert len(expected) > 30
    assert all(rows for _, rows in expected.values())
    actual = contents(loaded, read_with(reader(hostile)))
    assert [view for view in expected if actual[view] != expected[view]] == []


def test_a_reader_who_may_change_no_setting_reads_the_same(
    clickhouse: Endpoint, template: Settings, tmp_path: Path, run: Run
) -> None:
    world = small_world(matches=200)
    land_gamma(run, world)
    land(run, all_fills(world))
    settle_all(run)
    url = f"http://{clickhouse.host}:{clickhouse.port}/"
    session = {"session_id": uuid.uuid4().hex}
    with requests.Session() as http:
        http.headers["X-ClickHouse-Key"] = clickhouse.password

        def ask(statement: str, **params: str) -> str:
            answer = http.post(url, params=params, data=statement.encode(), timeout=PATIENCE_S)
            assert answer.ok, answer.text
            return answer.text

        def read(statement: str, **params: str) -> list[str]:
            text = ask(f"{statement} format TSVWithNamesAndTypes", **params)
            lines = text.splitlines()
            return [*lines[:2], *sorted(lines[2:])]

        profile = ", ".join(f"{name} = '{value}'" for name, value in HOSTILE_READ_ONLY.items())
        ask(f"set {profile}", **session)
        ask("set readonly = 1", **session)
        expected = contents(run, read)
        actual = contents(run, lambda query: read(query, **session))
    assert [view for view in expected if actual[view] != expected[view]] == []


def test_what_is_pinned_is_pinned_everywhere() -> None:
    project = yaml.safe_load((DBT_DIR / "dbt_project.yml").read_text())
    profiles = yaml.safe_load((PROJECT_DIR / "profiles.yml").read_text())
    assert project["models"]["polymarket"]["+query_settings"] == PINNED
    assert profiles["polymarket"]["outputs"]["default"]["custom_settings"] == PINNED
    assert set(HOSTILE) <= set(PINNED)


def test_no_result_is_cut_off_in_silence(clickhouse: Endpoint) -> None:
    """Where a limit of the profile is reached, statements fail: every mode that would cut off is pinned."""
    modes = reader(clickhouse).query(
        "select name from system.settings where endsWith(name, '_overflow_mode') and not is_obsolete"
    )
    assert {name for (name,) in modes.result_rows} - {"transfer_overflow_mode"} <= set(PINNED)


def test_every_view_and_every_materialized_view_says_its_settings(run: Run) -> None:
    definitions = run.client.query(
        "select name, create_table_query from system.tables"
        " where database = {database:String} and engine in ('View', 'MaterializedView')",
        parameters={"database": run.settings.clickhouse_database},
    ).result_rows
    assert definitions
    for name, definition in definitions:
        assert f"{'SETTINGS'} aggregate_functions_null_for_empty = 0" in definition, name
    for statement in run.statements:
        assert statement.sql.rstrip().endswith("transform_null_in = 0"), statement.model

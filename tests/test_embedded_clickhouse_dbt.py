"""The embedded ClickHouse through an unmodified dbt-clickhouse, on a tiny project."""

import os

import clickhouse_connect
import pytest

MODELS = {
    "numbers.sql": "select number as id, toString(number) as name from numbers(10)",
    "fills.sql": """
        {{ config(materialized='table', engine='MergeTree()', order_by='id') }}
        select id, name from {{ ref('numbers') }}
    """,
    "latest.sql": """
        {{ config(materialized='incremental', engine='MergeTree()', order_by='id',
                  unique_key='id', incremental_strategy='delete_insert') }}
        select id, count() as fills from {{ ref('fills') }} group by id
    """,
    "names.sql": """
        {{ config(materialized='table', engine='MergeTree()', order_by='id') }}
        select id, upper(name) as name from {{ ref('fills') }}
    """,
    "names_mv.sql": """
        {{ config(materialized='materialized_view') }}
        {{ materialization_target_table(ref('names')) }}
        select id, upper(name) as name from {{ ref('fills') }}
    """,
    "schema.yml": """
        models:
          - name: fills
            description: Ten rows, it's said
            columns:
              - name: id
                description: The key
                data_tests: [unique, not_null]
    """,
}


@pytest.fixture
def dbt(clickhouse, database_prefix, tmp_path, monkeypatch):
    """A function that runs dbt on the project and fails the test if dbt fails."""
    (tmp_path / "dbt_project.yml").write_text(
        "name: tiny\nprofile: tiny\nmodel-paths: [models]\n"
        "models: {+persist_docs: {relation: true, columns: true}}\n"
        "flags: {send_anonymous_usage_stats: false}\n"
    )
    (tmp_path / "profiles.yml").write_text(
        "tiny: {target: t, outputs: {t: {type: clickhouse, driver: http, threads: 2, "
        f"host: {clickhouse.host}, port: {clickhouse.port}, password: {clickhouse.password}, "
        f"schema: {database_prefix}}}}}}}\n"
    )
    (tmp_path / "models").mkdir()
    for name, text in MODELS.items():
        (tmp_path / "models" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    from dbt.cli.main import dbtRunner  # takes seconds to import

    def run(*arguments):
        outcome = dbtRunner().invoke(
            [*arguments, "--project-dir", os.curdir, "--profiles-dir", os.curdir, "--quiet"]
        )
        assert outcome.success, outcome.exception or [
            (result.node.name, result.message) for result in outcome.result
        ]

    return run


def test_dbt_builds_tests_and_documents(dbt, clickhouse, database_prefix, tmp_path):
    client = clickhouse_connect.get_client(
        host=clickhouse.host, port=clickhouse.port, password=clickhouse.password, database="default"
    )

    dbt("build")
    client.command(f"insert into {database_prefix}.fills values (10, 'ten')")
    dbt("run", "--select", "latest")
    dbt("docs", "generate")

    def values(query):
        return client.query(query.format(d=database_prefix)).result_rows

    assert values("select count() from {d}.numbers") == [(10,)]
    assert values("select count(), sum(fills) from {d}.latest") == [(11, 11)]
    assert values("select name from {d}.names where id = 10") == [("TEN",)]
    assert values("select comment from system.tables where database='{d}' and name='fills'") == [
        ("Ten rows, it's said",)
    ]
    assert "The key" in (tmp_path / "target" / "catalog.json").read_text()

"""What every source of THE list has, so that a new one is complete when these pass."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from croniter import croniter

from ingest.retries import RetryPolicy
from ingest.sources import SOURCES
from ingest.sources.base import Finding, Source
from ingest.sources.desk import NOTHING_LANDED, Desk
from ingest.tables import TABLES, Table
from pipeline.settings import PROJECT_DIR, Settings
from sandbox.clob import open_quotes
from sandbox.clock import HORIZON, block_at
from sandbox.faults import FAULTS
from sandbox.server import SandboxServer, Urls
from sandbox.world import World

NAMES = [source.name for source in SOURCES]
EACH = pytest.mark.parametrize("source", SOURCES, ids=NAMES)
LANDED = [
    pytest.param(source, table, id=f"{source.name}-{table.name}")
    for source in SOURCES
    for table in source.tables
]
# What a source writes down about its own reading; nothing is derived from it.
NOTES = {"late_fills"}
DAYS = 0.05
DEAD = "http://127.0.0.1:9"


def read(path: str) -> str:
    return (PROJECT_DIR / path).read_text()


def url_settings(source: Source) -> list[str]:
    """Its settings that say where an upstream is, as environment variables."""
    return [name.upper() for name in source.settings.model_fields if name.endswith("_url")]


def upstreams(source: Source) -> set[str]:
    """Names of the simulated upstreams that it reads: the first part of their paths."""
    environment = Urls.at(1).environment()
    urls = [environment[name] for name in url_settings(source) if name in environment]
    return {urlsplit(url).path.split("/")[1] for url in urls}


@pytest.fixture(scope="module")
def upstream() -> Iterator[SandboxServer]:
    world = World.generate(
        3, now=datetime.now(UTC), markets=30, matches=120, v1_days=DAYS, v2_days=DAYS
    )
    with SandboxServer(world) as server:
        yield server


# -- where it lands ---


def test_names_are_their_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    letters = [name for source in SOURCES for name in source.letters]
    assert len(set(letters)) == len(letters)


@pytest.mark.parametrize(("source", "table"), LANDED)
def test_a_landing_table_has_a_migration_with_comments(source: Source, table: Table) -> None:
    assert TABLES[table.name] is table
    sql = "\n".join(path.read_text() for path in sorted((PROJECT_DIR / "schema").glob("*.sql")))
    made = re.search(
        rf"create table if not exists \$\{{raw\}}\.{table.name} .*?\nengine[^;]*;", sql, re.DOTALL
    )
    assert made, "no migration makes it"
    assert re.search(r"\ncomment '[^']+';$", made[0]), "the table has no comment"
    for name in table.schema.names:
        column = re.search(rf"\n    {name} [A-Z].*? comment '[^']+'", made[0])
        assert column, f"{name} is not there, or has no comment"


@pytest.mark.parametrize(("source", "table"), LANDED)
def test_a_landing_table_is_staged_and_its_freshness_watched(source: Source, table: Table) -> None:
    if table.name in NOTES:
        return
    staging = PROJECT_DIR / "dbt_project/models/staging"
    model = staging / f"stg_polymarket__{table.name}"
    assert model.with_suffix(".sql").exists() and model.with_suffix(".yml").exists()
    declared = yaml.safe_load((staging / "sources.yml").read_text())["sources"][0]["tables"]
    found = next(each for each in declared if each["name"] == table.name)
    assert found["loaded_at_field"] == table.time
    assert found["config"]["freshness"].keys() == {"warn_after", "error_after"}
    assert found["description"]


@EACH
def test_its_dead_letters_can_be_replayed(source: Source) -> None:
    assert source.letters
    assert {kind.table.name for kind in source.letters.values()} <= {t.name for t in source.tables}


# -- how it is set and shown ---


@EACH
def test_its_settings_say_when_it_is_read_and_when_it_is_stale(source: Source) -> None:
    fields, defaults = source.settings.model_fields, Settings(_env_file=None)
    assert {f"{source.name}_schedule", f"{source.name}_max_lag_s"} <= fields.keys()
    assert all(field.description for field in fields.values())
    assert source.max_lag_s(defaults) > 0
    expression = source.schedule(defaults)
    assert not expression or croniter.is_valid(expression, second_at_beginning=False)
    assert url_settings(source)
    assert set(fields) <= set(Settings.model_fields)
    assert source.name in defaults.sources.split(",")


@EACH
def test_it_stands_in_the_readme_and_in_the_docs(source: Source) -> None:
    row = re.search(rf"^\| `{source.name}` \| (.*?) \|.*$", read("README.md"), re.MULTILINE)
    assert row and row[1] == source.title
    assert all(f"`{table.name}`" in row[0] for table in source.tables)
    assert f"## The source `{source.name}`: {source.title}" in read("docs/settings.md")
    folder = source.read.__module__.split(".")[2]
    chapters = re.findall(r"^## (\w+)", read("docs/sources.md"), re.MULTILINE)
    assert folder in [chapter.lower() for chapter in chapters]


# -- its sandbox ---


@EACH
def test_its_upstream_is_simulated_with_faults(source: Source) -> None:
    served = upstreams(source)
    assert served
    for name in served:
        assert any(name in fault.sources for fault in FAULTS.values()), name


def probed(source: Source, settings: Settings) -> list[Finding]:
    return list(source.probe(Desk(settings, NOTHING_LANDED, RetryPolicy(attempts=1))))


@EACH
def test_doctor_says_that_it_answers(source: Source, upstream: SandboxServer) -> None:
    environment = upstream.urls.environment()
    urls = {name.lower(): environment[name] for name in url_settings(source)}
    findings = probed(source, Settings(_env_file=None, **urls))
    assert findings
    assert [finding.detail for finding in findings if finding.failed] == []


@EACH
def test_doctor_says_that_it_is_dead_and_what_to_do(source: Source) -> None:
    urls = {name.lower(): DEAD for name in url_settings(source)}
    failed = [each for each in probed(source, Settings(_env_file=None, **urls)) if each.failed]
    assert failed
    assert any("127.0.0.1:9" in finding.subject + finding.detail for finding in failed)
    for finding in failed:
        assert "\n" not in finding.detail and "Traceback" not in finding.detail
        assert any(name in finding.remedy for name in url_settings(source))


# -- a plain dlt source ---

HEADER = """
import json, sys
import dlt
from ingest.http import HttpClient
options, folder = json.loads(sys.argv[1]), sys.argv[2]
"""
PLAIN = {
    "gamma": "from ingest.sources.gamma import gamma\nsource = gamma(options['gamma'])",
    "goldsky": (
        "from ingest.sources.goldsky import goldsky\n"
        "source = goldsky(options['goldsky'], start=options['archive_start'])"
    ),
    "polygon": (
        "from ingest.sources.polygon import polygon\n"
        "from ingest.sources.polygon.chain import Endpoints\n"
        "from ingest.sources.polygon.reader import Pace\n"
        "from ingest.sources.polygon.rpc import Node\n"
        "node = Node(HttpClient('polygon'), options['polygon'])\n"
        "source = polygon(Endpoints([node]), start=options['block'], pace=Pace(confirmations=0))"
    ),
    "prices": (
        "from ingest.sources.clob import prices\n"
        "source = prices(options['clob'], options['tokens'])"
    ),
}
FOOTER = """
pipeline = dlt.pipeline(
    "plain", destination=dlt.destinations.duckdb(folder + "/plain.duckdb"), dataset_name="raw", pipelines_dir=folder
)
pipeline.run(source)
with pipeline.sql_client() as client:
    tables = client.execute_sql("select table_name, estimated_size from duckdb_tables()")
tables = [(name, rows) for name, rows in tables if not name.startswith("_dlt")]
ours = [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "sandbox", "embedded_clickhouse")]
print(json.dumps({"tables": dict(tables), "ours": ours}))
"""


@EACH
def test_it_is_a_plain_dlt_source(source: Source, upstream: SandboxServer, tmp_path: Path) -> None:
    """Into DuckDB, by a process of its own that knows of nothing but `ingest`."""
    assert callable(getattr(import_module(source.read.__module__.rpartition(".")[0]), source.name))
    world, urls = upstream.world, upstream.urls
    options = {
        "gamma": urls.gamma_url,
        "goldsky": urls.goldsky_url,
        "polygon": urls.polygon_url,
        "clob": urls.clob_url,
        "tokens": list(open_quotes(world)),
        "archive_start": int(HORIZON.timestamp - DAYS * 86_400) - 60,
        "block": block_at(world.now - DAYS * 86_400) - 60,
    }
    process = subprocess.run(
        [sys.executable, "-c", HEADER + PLAIN[source.name] + FOOTER, json.dumps(options), tmp_path],
        env=os.environ | {"PYTHONPATH": str(PROJECT_DIR)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert process.returncode == 0, process.stderr
    answer = json.loads(process.stdout.splitlines()[-1])
    assert answer["ours"] == []
    assert answer["tables"].keys() == {table.name for table in source.tables} - NOTES
    assert all(answer["tables"].values())

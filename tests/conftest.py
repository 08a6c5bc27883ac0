"""Fixtures that every test may use: one ClickHouse per test session, a database prefix per test."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from worlds import emptied, make_settings, prepared, sandbox_settings

from embedded_clickhouse import Access, Endpoint, running
from pipeline.derive.prepare import prepare
from pipeline.settings import ENV_FILE_VARIABLE, Settings
from pipeline.warehouse.run import Run, open_run
from sandbox.server import SandboxServer

# No test, and no process that one starts, reads the .env of this checkout.
os.environ[ENV_FILE_VARIABLE] = ""
# Tests share the machine with an engine, so how long an example takes says nothing; failures print how to repeat them.
hypothesis_settings.register_profile("shared", deadline=None, print_blob=True)
hypothesis_settings.load_profile("shared")


# The files that take longest. Processes share the files out, so a long one at the end would keep one of them busy alone.
LONG_FILES = (
    "parquet", "models", "rebuild", "faults", "upgrade", "two_writers", "cycle", "verify", "bench", "backfill", "marts",
    "interruptions", "backup", "dbt_team", "gamma", "settle", "replay", "cli", "providers", "export", "chaos", "demo",
    "destination", "loop", "embedded_clickhouse_security", "packaging", "security", "markets", "out_of_the_box",
    "engine_upgrade", "gamma_in_time",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the long files run first; their tests keep their order."""
    places = {f"test_{name}": place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The embedded ClickHouse on a free port, over a folder of its own; it may read addresses, as archives need."""
    access = Access(sources=("URL",))
    with running(tmp_path_factory.mktemp("clickhouse"), 0, access=access) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def copies() -> list[str]:
    """Prefixes of copies of the template that are as it was, without data."""
    return []


@pytest.fixture
def database_prefix(
    request: pytest.FixtureRequest, clickhouse: Endpoint, copies: list[str], tmp_path: Path
) -> Iterator[str]:
    """A prefix that no other test uses meanwhile; databases `<prefix>` and `<prefix>_raw` are dropped.

    A test that begins with a copy of the template may get one that another test has left, and leaves its own.
    """
    is_copy = not {"run", "reading_from"}.isdisjoint(request.fixturenames)
    template = request.getfixturevalue("template") if is_copy else None
    prefix = copies.pop() if is_copy and copies else f"t_{uuid.uuid4().hex[:8]}"
    yield prefix
    with open_run(make_settings(clickhouse, prefix, tmp_path)) as run:
        if template and run.has_database(f"{prefix}_raw") and emptied(run, template):
            copies.append(prefix)
            return
        for database in (prefix, f"{prefix}_raw"):
            run.client.command(f"drop database if exists {database}")


@pytest.fixture(scope="session")
def template(clickhouse: Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a database prefix with schema and models built by the real thing, for copying."""
    folder = tmp_path_factory.mktemp("template")
    settings = make_settings(clickhouse, f"template_{uuid.uuid4().hex[:8]}", folder)
    with open_run(settings) as run:
        prepare(run)
    return settings


@pytest.fixture
def settings(clickhouse: Endpoint, database_prefix: str, tmp_path: Path) -> Settings:
    """Settings of this test's own databases; the upstreams point nowhere."""
    return make_settings(clickhouse, database_prefix, tmp_path)


@pytest.fixture
def reading_from(
    clickhouse: Endpoint, database_prefix: str, tmp_path: Path, template: Settings
) -> Callable[..., AbstractContextManager[Run]]:
    """Opens a prepared run that reads from a sandbox: `with reading_from(upstream, **settings) as run`."""

    def opened(upstream: SandboxServer, **values: Any) -> AbstractContextManager[Run]:
        settings = sandbox_settings(clickhouse, database_prefix, tmp_path, upstream, **values)
        return prepared(settings, template)

    return opened


@pytest.fixture(scope="module")
def settled_by(
    clickhouse: Endpoint, template: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Callable[[Run], None]], Settings]]:
    """Settings of databases that a function has filled, once per module, for `worlds.copy_rows`."""
    prefixes: list[str] = []

    def filled(fill: Callable[[Run], None]) -> Settings:
        prefixes.append(f"t_{uuid.uuid4().hex[:8]}")
        folder = tmp_path_factory.mktemp("settled")
        settings = make_settings(clickhouse, prefixes[-1], folder)
        with prepared(settings, template) as run:
            fill(run)
        return settings

    yield filled
    with open_run(template) as run:
        for prefix in prefixes:
            run.client.command(f"drop database if exists {prefix}")
            run.client.command(f"drop database if exists {prefix}_raw")


@pytest.fixture
def run(settings: Settings, template: Settings) -> Iterator[Run]:
    """An open run on this test's own databases, schema and models in place, no data."""
    with prepared(settings, template) as run:
        yield run

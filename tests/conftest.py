"""Fixtures that every test may use: one ClickHouse per test session, a database prefix per test."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from hypothesis import settings as hypothesis_settings
from worlds import make_settings, prepared, sandbox_settings

from embedded_clickhouse import Endpoint, running
from pipeline.derive.prepare import prepare
from pipeline.settings import ENV_FILE_VARIABLE, Settings
from pipeline.warehouse.run import Run, open_run
from sandbox.server import SandboxServer

# No test, and no process that one starts, reads the .env of this checkout.
os.environ[ENV_FILE_VARIABLE] = ""
# Tests share the machine with an engine, so how long an example takes says nothing; failures print how to repeat them.
hypothesis_settings.register_profile("shared", deadline=None, print_blob=True)
hypothesis_settings.load_profile("shared")


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The embedded ClickHouse on a free port, over a folder of its own; no password."""
    with running(tmp_path_factory.mktemp("clickhouse"), 0) as endpoint:
        yield endpoint


@pytest.fixture
def database_prefix(clickhouse: Endpoint) -> Iterator[str]:
    """A prefix that no other test uses; databases `<prefix>` and `<prefix>_raw` are dropped."""
    prefix = f"t_{uuid.uuid4().hex[:8]}"
    yield prefix
    client = clickhouse_connect.get_client(
        host=clickhouse.host, port=clickhouse.port, password=clickhouse.password
    )
    for database in (prefix, f"{prefix}_raw"):
        client.command(f"drop database if exists {database}")


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


@pytest.fixture
def run(settings: Settings, template: Settings) -> Iterator[Run]:
    """An open run on this test's own databases, schema and models in place, no data."""
    with prepared(settings, template) as run:
        yield run

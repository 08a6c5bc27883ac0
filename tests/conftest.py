"""Fixtures that every test may use: one ClickHouse per test session, a database prefix per test."""

import uuid
from collections.abc import Iterator

import clickhouse_connect
import pytest

from embedded_clickhouse import Endpoint, running


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
    client = clickhouse_connect.get_client(host=clickhouse.host, port=clickhouse.port)
    for database in (prefix, f"{prefix}_raw"):
        client.command(f"drop database if exists {database}")

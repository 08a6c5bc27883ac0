"""Databases that earlier versions wrote, for tests of upgrades: `old_databases/make.py` made them."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

from clickhouse_connect.driver.client import Client

ARCHIVES = sorted((Path(__file__).parent / "old_databases").glob("*.tar.xz"))


def unpack(client: Client, archive: Path, prefix: str) -> None:
    """Make the databases of an archive under other names: `<prefix>` and `<prefix>_raw`."""
    with tarfile.open(archive) as packed:
        parts = {each.name: packed.extractfile(each).read() for each in packed.getmembers()}
    for database in (f"{prefix}_raw", prefix):
        client.command(f"create database {database}")
    pending = [_renamed(query, prefix) for query in json.loads(parts.pop("ddl.json"))]
    views = [query for query in pending if "MATERIALIZED VIEW" in query]
    _create(client, [query for query in pending if query not in views])
    for name, rows in parts.items():
        if rows:
            table = _renamed(name.removesuffix(".native"), prefix)
            client.raw_insert(table, insert_block=rows, fmt="Native")
    _create(client, views)  # after the rows, which they would write again


def _create(client: Client, pending: list[str]) -> None:
    while pending:
        failed = [query for query in pending if not _created(client, query)]
        if len(failed) == len(pending):
            client.command(failed[0])  # raises, and says why
        pending = failed


def _created(client: Client, query: str) -> bool:
    try:
        client.command(query)
    except Exception:  # what it reads is not there yet
        return False
    return True


def _renamed(text: str, prefix: str) -> str:
    return re.sub(r"\bpolymarket(_raw)?(?=[`.])", rf"{prefix}\1", text)

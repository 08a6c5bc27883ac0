"""Writes a database with the code of an earlier commit, and packs it for `test_upgrade.py`.

The tests run the code of today alone, so databases of earlier versions are kept as archives. Made with:

    git worktree add /tmp/old 917eaed
    PYTHONPATH=/tmp/old:/tmp/old/tests .venv/bin/python tests/old_databases/make.py tests/old_databases/917eaed.tar.xz

The old code reads its own simulated Polymarket: history, then a live cycle. The archive holds `ddl.json`, the definitions
in the order in which they can be made, and the rows of every table in ClickHouse's Native format.
"""

import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path

from pipeline.cycle import run_cycle  # of the old commit, like all below
from pipeline.patience import Patience
from pipeline.run import open_run
from worlds import sandbox_settings, small_world

from embedded_clickhouse import running
from sandbox.server import SandboxServer

DATABASES = ("polymarket_raw", "polymarket")
LARGEST = 1.5e6


def main(archive: Path) -> None:
    """Load a small world in two cycles, and pack what the databases hold."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = small_world(matches=700)
        with running(folder / "data", 0) as endpoint, SandboxServer(world) as upstream:
            settings = sandbox_settings(endpoint, "polymarket", folder, upstream)
            with open_run(settings) as run:
                with run.lock.held("run") as lock:
                    run.prepare()
                    for _ in range(2):
                        while not run_cycle(run, lock, Patience(1.0)).caught_up:
                            pass
                        world.advance(60)
                parts = dict(_parts(run.client))
        with tarfile.open(archive, "w:xz", preset=9) as packed:
            for each, content in parts.items():
                entry = tarfile.TarInfo(each)
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))
    assert archive.stat().st_size < LARGEST, f"{archive.stat().st_size} bytes are too many"


def _parts(client):
    """Names and contents of the files of the archive."""
    tables = client.query(
        "select database, name, engine, create_table_query from system.tables where database in {databases:Array(String)}"
        " order by engine in ('View', 'MaterializedView'), metadata_modification_time, name",
        parameters={"databases": list(DATABASES)},
    ).result_rows
    tables = [
        table for table in tables if not table[1].startswith("writer_lock")
    ]  # names a machine
    yield "ddl.json", json.dumps([query for *_, query in tables], indent=1).encode()
    for database, name, engine, _ in tables:
        if engine.endswith("MergeTree"):
            rows = client.raw_query(f"select * from {database}.{name}", fmt="Native")
            yield f"{database}.{name}.native", rows


if __name__ == "__main__":
    main(Path(sys.argv[1]))

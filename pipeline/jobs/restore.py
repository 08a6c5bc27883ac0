"""`restore`: puts both databases of the embedded ClickHouse back to where a backup stood.

Everything that can be known before is checked before: the file as a whole, its versions, its databases, the room on the
disk, and that nothing is replaced unless the user says so. From then on the table `restore_unfinished` says that data are
missing, so that a run after a kill refuses to write; the same command, given again, finishes. dlt's working folder is
removed, because what waits there was read after the backup. The writer lock is kept throughout, under a number
greater than that of the backup, which the restored books name.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from embedded_clickhouse.backups import Folders, file
from embedded_clickhouse.versions import EngineVersion
from ingest.land.working_folder import forget
from pipeline.console import human, step
from pipeline.derive.replaced import note_restored
from pipeline.errors import BackupError
from pipeline.jobs.backup import LONGEST_S, alone, refuse_scratch
from pipeline.jobs.backup_file import Facts, Manifest, check
from pipeline.jobs.backup_requests import TABLE as REQUESTS
from pipeline.settings import Settings
from pipeline.warehouse.client import connect, first_line
from pipeline.warehouse.lock import PREFIX
from pipeline.warehouse.migrations import read_migrations
from pipeline.warehouse.run import UNFINISHED, Run

# What a run makes before it loads anything.
BOOKS = (
    *("schema_migrations", "model_deployments", "deployed_stores", "filled_parts", "owed_slices"),
    *("settled_tables", "job_runs", "job_states", "_dlt_version"),
)
NO_LIMIT = {"max_table_size_to_drop": 0, "max_partition_size_to_drop": 0}
log = logging.getLogger(__name__)


def restore(run: Run, path: Path, *, replace: bool) -> Manifest:
    """Restore a backup, and wait until it is there.

    Args:
        path: the backup.
        replace: drop what both databases hold.

    Raises:
        BackupError: the backup is damaged or does not fit, there are data and `replace` is false, or there is no room:
            nothing was changed; or ClickHouse failed in between, as the message says.
        LockHeld: another run is writing.
    """
    settings = run.settings
    path = path.expanduser().resolve()
    with step("restore") as shown:
        shown.update("checking")
        refuse_scratch(settings, path)
        manifest = check(
            path,
            has_network=bool(settings.clickhouse_local_sources),
            canonical=lambda text: _canonical(run.client, text),
        )
        _refuse_misfits(path, manifest.facts, settings)
        with alone(settings) as folders, run.lock.held("restore", manifest.facts.fence) as lock:
            lock.stop_earlier()
            _refuse_data(run, replace)
            _refuse_without_room(run, path, manifest, folders)
            with _at_hand(path, folders) as kept:
                shown.update(f"restoring {human(manifest.rows)} rows")
                _replace(run, manifest.facts, kept, path)
    log.info("restore: as of %s, %s rows", manifest.facts.made_at, human(manifest.rows))
    return manifest


def _canonical(client: Client, text: bytes) -> bytes:
    """A definition as the engine writes it; as hex digits, of which no lexer can make anything else.

    Raises:
        BackupError: it is not one statement.
    """
    sql = f"select hex(formatQuerySingleLine(unhex('{text.hex()}')))"
    try:
        rows = client.query(sql, settings={"max_query_size": 0}).result_rows
    except ClickHouseError as error:
        raise BackupError(first_line(error)) from error
    return bytes.fromhex(rows[0][0])


def _refuse_misfits(path: Path, facts: Facts, settings: Settings) -> None:
    """Refuse a backup of a newer engine, of a newer schema, or of other databases.

    Raises:
        BackupError: it is one.
    """
    made, installed = EngineVersion(facts.chdb_core), EngineVersion.installed()
    if made.line > installed.line:
        raise BackupError(
            f"{path} was made by {made}, and {installed} is older: install chdb-core {made.package} or newer"
        )
    if facts.migration > len(read_migrations()):
        raise BackupError(f"{path} was made by a later version of this project: update it")
    if facts.database != settings.clickhouse_database:
        raise BackupError(
            f"{path} holds {facts.database}, not {settings.clickhouse_database}: set CLICKHOUSE_DATABASE={facts.database}"
        )


def _refuse_data(run: Run, replace: bool) -> None:
    """Refuse to replace data, unless the user says so or an earlier restore has left a part of them.

    Raises:
        BackupError: there are some.
    """
    settings = run.settings
    if replace or run.client.command(f"exists table {settings.raw_database}.{UNFINISHED}"):
        return
    tables, rows = run.client.query(
        "select count(), sum(total_rows) from system.tables"
        " where database in ({raw:String}, {models:String}) and total_rows > 0"
        " and not startsWith(name, {lock:String}) and name not in {books:Array(String)}",
        parameters={
            "raw": settings.raw_database,
            "models": settings.clickhouse_database,
            "lock": PREFIX,
            "books": [*BOOKS, REQUESTS],
        },
    ).result_rows[0]
    if tables:
        raise BackupError(
            f"{settings.clickhouse_database} and {settings.raw_database} hold {human(rows)} rows in {tables} tables:"
            " --replace drops them; make a `backup` first if you may want them back"
        )


def _refuse_without_room(run: Run, path: Path, manifest: Manifest, folders: Folders) -> None:
    """Refuse a backup that will not fit on the disk.

    Raises:
        BackupError: it will not.
    """
    stored = run.client.query(
        "select sum(bytes_on_disk) from system.parts where database in ({raw:String}, {models:String})",
        parameters={
            "raw": run.settings.raw_database,
            "models": run.settings.clickhouse_database,
        },
    ).result_rows[0][0]
    needed = manifest.size * (1 if _is_beside(path, folders) else 2)
    room = shutil.disk_usage(folders.kept).free + stored
    if room < needed:
        raise BackupError(
            f"{path} needs {human(needed >> 20)} MiB where the ClickHouse data are, and there are {human(room >> 20)}"
        )


def _is_beside(path: Path, folders: Folders) -> bool:
    return path.stat().st_dev == folders.kept.stat().st_dev


@contextmanager
def _at_hand(path: Path, folders: Folders) -> Iterator[Path]:
    """The backup under a name of which ClickHouse may read it: a link, or a copy from another disk."""
    kept = folders.kept / f"restoring-{uuid.uuid4().hex}.tar"  # see AT_HAND
    try:
        try:
            os.link(path, kept)
        except OSError:
            shutil.copyfile(path, kept)
        yield kept
    except OSError as error:
        raise BackupError(f"{path} cannot be read: {error.strerror or error}") from error
    finally:
        kept.unlink(missing_ok=True)


def _replace(run: Run, facts: Facts, kept: Path, path: Path) -> None:
    """Empty both databases and fill them from the backup.

    Raises:
        BackupError: ClickHouse failed; the databases are marked as unfinished.
    """
    settings, client = run.settings, connect(run.server, LONGEST_S)
    raw, models = settings.raw_database, settings.clickhouse_database
    client.set_client_setting("log_comment", run.lock.comment)
    try:
        client.command(
            f"create table if not exists {raw}.{UNFINISHED} (at DateTime) engine = MergeTree order by at"
            " comment 'A restore is under way, or was cut off: data are missing'"
        )
        _ = run.pipelines_dir  # of an earlier version: moved to where `forget` finds it
        forget(settings.dlt_pipelines_dir, raw)
        _empty(client, raw, models)
        # It stays, with the lock in it; ClickHouse restores a database into its like only.
        client.command(
            f"alter database {raw} modify comment %(comment)s",
            parameters={"comment": facts.raw_comment},
        )
        client.command(f"restore database {raw}, database {models} from {file(kept)}")
        note_restored(run, facts.settled_in_place)
        run.lock.check()
        client.command(f"drop table {raw}.{UNFINISHED} sync")
    except ClickHouseError as error:
        raise BackupError(
            f"restore failed: {first_line(error)}; data are missing now, and {path} is intact: run it again"
        ) from error
    finally:
        client.close()


def _empty(client: Client, raw: str, models: str) -> None:
    """Drop everything but the writer lock and the mark, views first."""
    client.command(f"drop database if exists {models} sync", settings=NO_LIMIT)
    names = client.query(
        "select name from system.tables where database = {raw:String}"
        " and not startsWith(name, {lock:String}) and name != {mark:String}"
        " order by endsWith(engine, 'View') desc, name",
        parameters={"raw": raw, "lock": PREFIX, "mark": UNFINISHED},
    ).result_rows
    for (name,) in names:
        client.command(f"drop table if exists {raw}.`{name}` sync", settings=NO_LIMIT)

"""`backup`: one consistent backup of both databases of the embedded ClickHouse, as one file.

ClickHouse backs up one table after the other, so a backup is of one moment only if nothing is written meanwhile: a
ledger that says `settled`, or a cursor, must not be later than the rows it speaks of. Therefore the holder of the
writer lock writes the backup: this run if the lock is free, else a loop between two cycles, while this run watches. A
loop that is busy finishes its cycle first. The file gets its name when it is whole and on the disk. The module is
longer than 300 lines because asking for a backup, writing it and serving the request of another run are one protocol.
"""

from __future__ import annotations

import fcntl
import fnmatch
import json
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clickhouse_connect.driver.exceptions import DatabaseError

from embedded_clickhouse.backups import Folders, file
from embedded_clickhouse.ownership import open_private
from pipeline.console import step
from pipeline.derive.replaced import tables_in_place
from pipeline.errors import BackupError, LockHeld, NothingLoaded, SettingsError
from pipeline.jobs.backup_file import Facts, Manifest, publish, seal
from pipeline.jobs.backup_requests import TABLE as REQUESTS
from pipeline.jobs.backup_requests import BackupRequests
from pipeline.settings import Settings
from pipeline.warehouse.client import connect, first_line
from pipeline.warehouse.holder import Holder
from pipeline.warehouse.lock import PREFIX
from pipeline.warehouse.run import Run

# Verbs that write a requested backup while they hold the lock.
SERVING_VERBS = ("loop", "cron", "backfill")
LOOK_EVERY_S = 0.5
# Longer than most cycles.
IMPATIENT_S = 180.0
# Names of links to a backup that is being restored.
AT_HAND = f"restoring-{'[0-9a-f]' * 32}.tar"
# A backup of what fits on one disk; ClickHouse answers at its end.
LONGEST_S = 86_400
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """A finished backup.

    Attributes:
        path: the file, absolute.
        size: its bytes.
        manifest: what it holds.
    """

    path: Path
    size: int
    manifest: Manifest


def backup(run: Run, target: Path | None) -> Made:
    """Write a backup of both databases, and wait until it is there.

    Args:
        target: the file to make, or a folder that gets a dated one; None: `backups` in the data folder.

    Raises:
        NothingLoaded: there is nothing to back up.
        RestoreUnfinished: the databases hold a part of a backup.
        BackupError: the file exists or cannot be written, another backup is under way, or ClickHouse failed.
    """
    settings = run.settings
    run.refuse_unfinished()
    if not (
        run.has_database(settings.clickhouse_database)
        and run.client.command(f"exists table {settings.raw_database}.schema_migrations")
    ):
        raise NothingLoaded("nothing to back up: no run has made the databases yet")
    final = _final(settings, target)
    with alone(settings), step("backup") as shown:
        written, facts = _Backup(run).written()
        shown.update("checking")
        manifest = seal(written, facts)
        publish(written, final)
    return Made(final, final.stat().st_size, manifest)


def refuse_server(settings: Settings, verb: str) -> None:
    """Refuse a ClickHouse server, which writes its backups where it runs.

    Raises:
        SettingsError: CLICKHOUSE_HOST is set.
    """
    if not settings.embedded:
        raise SettingsError(
            f"`{verb}` is for the embedded ClickHouse; on {settings.clickhouse_host} use ClickHouse's own BACKUP and"
            f" RESTORE of {settings.raw_database} and {settings.clickhouse_database} (docs/operations.md)"
        )


@contextmanager
def alone(settings: Settings) -> Iterator[Folders]:
    """Be the only one who backs up or restores in the data folder, and remove what a kill has left of another.

    Raises:
        BackupError: another run does.
    """
    folders = Folders.of(settings.clickhouse_local_path)
    with open_private(settings.clickhouse_local_path / "backup.lock", "a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError("another run backs up or restores: wait for it to end") from None
        _clear(folders)
        try:
            yield folders
        finally:
            _clear(folders)


def _clear(folders: Folders) -> None:
    """Remove what is not a finished backup; ClickHouse may still write a file that a stopped run has asked for."""
    kept = (each for pattern in (".*.partial", AT_HAND) for each in folders.kept.glob(pattern))
    for left in (*folders.written.glob("*.tar"), *kept):
        left.unlink(missing_ok=True)


def refuse_scratch(settings: Settings, path: Path) -> None:
    """Refuse a file that `alone` would remove, because its name is that of an unfinished backup.

    Args:
        path: absolute, without links.

    Raises:
        BackupError: it is one.
    """
    folders = Folders.of(settings.clickhouse_local_path)
    is_left = any(fnmatch.fnmatchcase(path.name, pattern) for pattern in (".*.partial", AT_HAND))
    if path.parent == folders.written or (path.parent == folders.kept and is_left):
        raise BackupError(
            f"{path} is where unfinished backups are kept, which are removed: use another folder or name"
        )


def serve_requests(run: Run, settle: Callable[[], object] = lambda: None) -> None:
    """Write the backups that were requested; only under the lock. This run loads and settles nothing meanwhile.

    Args:
        settle: called first, so that a backup holds no load that is not settled.

    Raises:
        LockHeld: the lock was lost.
    """
    requests = BackupRequests(run.client, run.settings.raw_database)
    if not run.server.embedded or not requests.exist():
        return
    waiting = requests.waiting()
    if not waiting:
        return
    with run.door.alone():
        settle()  # a load may have come in since the last settle
        _serve(run, requests, waiting)


def _serve(run: Run, requests: BackupRequests, waiting: list[str]) -> None:
    for request in waiting:
        run.lock.check()
        requests.note(request, "taken")
        log.info("backup: writing, as requested")
        try:
            facts = write(run, _path(run.settings, request))
        except (DatabaseError, BackupError) as error:
            log.error("backup: %s", first_line(error))
            requests.note(request, "failed", first_line(error))
        else:
            requests.note(request, "done", json.dumps(asdict(facts)))


def write(run: Run, path: Path) -> Facts:
    """Let ClickHouse write the backup, under the lock, while nothing else is written.

    Raises:
        LockHeld: the lock was lost meanwhile, so something else may have been written.
        DatabaseError: ClickHouse failed.
    """
    settings, client = run.settings, connect(run.server, LONGEST_S)
    raw = settings.raw_database
    client.set_client_setting("log_comment", run.lock.comment)
    now, engine, comment = client.query(
        "select now('UTC'), version(), comment from system.databases where name = {raw:String}",
        parameters={"raw": raw},
    ).result_rows[0]
    left_out = client.query(
        "select name from system.tables where database = {raw:String}"
        " and (startsWith(name, {lock:String}) or name = {requests:String})",
        parameters={"raw": raw, "lock": PREFIX, "requests": REQUESTS},
    ).result_rows
    facts = Facts(
        made_at=now.replace(tzinfo=UTC).isoformat(),
        chdb_core=version("chdb-core"),
        engine=engine,
        database=settings.clickhouse_database,
        raw_database=raw,
        raw_comment=comment,
        fence=run.lock.number,
        migration=client.query(f"select max(number) from {raw}.schema_migrations").result_rows[0][
            0
        ],
        settled_in_place=tables_in_place(run),
    )
    names = ", ".join(f"{raw}.{name}" for (name,) in left_out)
    try:
        client.command(
            f"backup database {facts.database}, database {raw} except tables {names} to {file(path)}"
        )
    finally:
        client.close()
    run.lock.check()
    return facts


class _Backup:
    """One run of the verb: writes, or has it written, until there is a file."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def written(self) -> tuple[Path, Facts]:
        """The file that ClickHouse has written, and what is known of it."""
        told: Holder | None = None
        while True:
            holder = self._holder()
            made = None
            if holder is None:
                made = self._write()
            elif holder.verb in SERVING_VERBS:
                made = self._request(holder)
            if made is not None:
                return made
            if holder is not None and (told is None or told.number != holder.number):
                log.info("backup: waiting for %s to end", holder)
                told = holder
            time.sleep(LOOK_EVERY_S)

    def _holder(self) -> Holder | None:
        holder = self._run.lock.holder()
        dead = holder is None or holder.is_dead(self._run.settings.lock_ttl_s)
        return None if dead else holder

    def _write(self) -> tuple[Path, Facts] | None:
        """Write it under the lock; None if another run was faster to take that."""
        path = _path(self._run.settings, uuid.uuid4().hex)
        try:
            with self._run.lock.held("backup") as lock:
                lock.stop_earlier()
                return path, write(self._run, path)
        except LockHeld as held:
            log.info("backup: %s", held)
            return None
        except DatabaseError as error:
            raise BackupError(f"backup failed: {first_line(error)}") from error

    def _request(self, holder: Holder) -> tuple[Path, Facts] | None:
        """Have the holder write it; None if that has let go of the lock before."""
        run, request = self._run, uuid.uuid4().hex
        requests = BackupRequests(run.client, run.settings.raw_database)
        requests.make()
        log.info("backup: %s writes it when its cycle is over", holder)
        impatient_at = time.monotonic() + IMPATIENT_S
        while (now := self._holder()) is not None and now.number == holder.number:
            requests.note(request, "waiting")
            if time.monotonic() > impatient_at:
                impatient_at = math.inf
                log.warning(
                    "backup: no answer of %s yet; one of an earlier version gives none: start it again",
                    holder,
                )
            if answer := requests.answer(request):
                event, detail = answer
                if event == "failed":
                    raise BackupError(f"backup failed: {detail}")
                return _path(run.settings, request), Facts(**json.loads(detail))
            time.sleep(LOOK_EVERY_S)
        return None


def _path(settings: Settings, name: str) -> Path:
    return Folders.of(settings.clickhouse_local_path).written / f"{name}.tar"


def _final(settings: Settings, target: Path | None) -> Path:
    """The file to make.

    Raises:
        BackupError: it exists, or its folder does not.
    """
    target = Folders.of(settings.clickhouse_local_path).kept if target is None else target
    final = target.expanduser().resolve()
    if final.is_dir():
        final /= f"{settings.clickhouse_database}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar"
    refuse_scratch(settings, final)
    if final.exists():
        raise BackupError(f"{final} exists already: name another file")
    if not final.parent.is_dir():
        raise BackupError(f"there is no folder {final.parent}: make it, or name another")
    return final

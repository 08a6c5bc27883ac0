"""The writer lock: one run loads and settles at a time, wherever it runs.

`create table` without `if not exists` succeeds for exactly one of any number of callers, and `rename table` likewise, so
the lock is a table in the landing database. Its one row names the holder; the holder's heartbeat renews it. A lock
whose heartbeat is older than its time to live, or whose process is gone from this very machine, is taken over.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from pipeline.errors import LockHeld

TABLE = "writer_lock"
TABLE_ALREADY_EXISTS = "Code: 57."
UNKNOWN_TABLE = "Code: 60."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds the lock: a run on a machine, the verb it runs, and since when and how recently it was heard of."""

    token: str
    host: str
    pid: int
    verb: str
    acquired_at: datetime
    age_s: float

    def __str__(self) -> str:
        return f"`{self.verb}` (pid {self.pid} on {self.host}, since {self.acquired_at:%Y-%m-%d %H:%M:%S} UTC)"

    def is_dead(self, ttl_s: float) -> bool:
        """True if the holder was not heard of for `ttl_s` seconds, or its process is gone from this machine."""
        here = self.host == socket.gethostname()
        # Our own pid under another token: this container died and was started again.
        return self.age_s > ttl_s or (here and (self.pid == os.getpid() or not _alive(self.pid)))


class WriterLock:
    """The lock of one landing database."""

    def __init__(self, client: Client, raw_database: str, ttl_s: float):
        self._client = client
        self._table = f"{raw_database}.{TABLE}"
        self._ttl_s = ttl_s
        self._token = uuid.uuid4().hex
        self._lost = threading.Event()

    def holder(self) -> Holder | None:
        """Who holds the lock now, or nobody."""
        try:
            rows = self._client.query(f"""
                select token, host, pid, verb, acquired_at, dateDiff('millisecond', beat_at, now64(6, 'UTC')) / 1000
                from {self._table}
                order by beat_at desc
                limit 1
            """).result_rows
        except DatabaseError as error:
            if UNKNOWN_TABLE in str(error):
                return None
            raise
        if not rows:  # created this very moment, its row still to come
            return Holder("", "unknown", 0, "starting", datetime.now(UTC), 0.0)
        return Holder(*rows[0])

    @contextmanager
    def held(self, verb: str) -> Iterator[WriterLock]:
        """Hold the lock for the length of the block.

        Raises:
            LockHeld: another run holds it; the message says which.
        """
        self._client.command(f"create database if not exists {self._table.split('.')[0]}")
        self._acquire(verb)
        stop = threading.Event()
        beat = threading.Thread(
            target=self._beat, args=(verb, stop), name="lock-heartbeat", daemon=True
        )
        beat.start()
        try:
            yield self
        finally:
            stop.set()
            beat.join()
            self._release()

    def check(self) -> None:
        """Make sure that the lock is still ours; call it before writing.

        Raises:
            LockHeld: it was taken over, because our heartbeat had not come through.
        """
        if self._lost.is_set():
            raise LockHeld(
                f"this run lost the writer lock to {self.holder() or 'nobody'}; start it again"
            )

    def _acquire(self, verb: str) -> None:
        for _ in range(3):
            if self._create(verb):
                return
            holder = self.holder()
            if holder is None:
                continue
            if not holder.is_dead(self._ttl_s):
                raise LockHeld(f"{holder} is writing; wait for it to end, or stop it")
            log.warning("lock: taking over from %s, not heard of for %.0f s", holder, holder.age_s)
            self._bury(holder)
        raise LockHeld("the writer lock is changing hands; try again")

    def _create(self, verb: str) -> bool:
        try:
            self._client.command(f"""
                create table {self._table}
                (
                    token String comment 'identity of the run',
                    host String comment 'machine',
                    pid UInt32 comment 'process on that machine',
                    verb String comment 'what it runs',
                    acquired_at DateTime64(6, 'UTC') comment 'when it took the lock',
                    beat_at DateTime64(6, 'UTC') default now64(6, 'UTC') comment 'when it was last heard of'
                )
                engine = MergeTree order by beat_at
                comment 'Writer lock: exists while a run holds it'
            """)
        except DatabaseError as error:
            if TABLE_ALREADY_EXISTS in str(error):
                return False
            raise
        self._acquired_at = datetime.now(UTC)
        self._write_beat(verb)
        return True

    def _write_beat(self, verb: str) -> None:
        self._client.insert(
            self._table.split(".")[1],
            [[self._token, socket.gethostname(), os.getpid(), verb, self._acquired_at]],
            column_names=["token", "host", "pid", "verb", "acquired_at"],
            database=self._table.split(".")[0],
        )

    def _beat(self, verb: str, stop: threading.Event) -> None:
        while not stop.wait(self._ttl_s / 4):
            try:
                holder = self.holder()
                if holder is None or holder.token != self._token:
                    self._lost.set()
                    return
                self._write_beat(verb)
            except ClickHouseError as error:
                log.warning("lock: heartbeat failed, trying again: %s", str(error).splitlines()[0])

    def _bury(self, holder: Holder) -> None:
        """Move a dead holder's lock away; of several runs that try, one can, because the grave has the holder's name."""
        with suppress(DatabaseError):
            self._client.command(f"rename table {self._table} to {self._table}_of_{holder.token}")

    def _release(self) -> None:
        try:
            holder = self.holder()
            if holder is not None and holder.token == self._token:
                self._client.command(f"drop table {self._table}")
            self._drop_graves()
        except ClickHouseError as error:
            log.warning("lock: not released, it expires by itself: %s", str(error).splitlines()[0])

    def _drop_graves(self) -> None:
        database, table = self._table.split(".")
        graves = self._client.query(
            "select name from system.tables where database = {database:String} and startsWith(name, {prefix:String})",
            parameters={"database": database, "prefix": f"{table}_of_"},
        ).result_columns
        for name in graves[0] if graves else ():
            self._client.command(f"drop table if exists {database}.{name}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

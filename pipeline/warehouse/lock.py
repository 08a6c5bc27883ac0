"""The writer lock: one run loads and settles at a time, wherever it runs.

To take the lock a run creates the table `writer_lock_<n>` of the next number, which succeeds for exactly one of any
number of runs; the highest number holds the lock. It is free again when its run wrote that it released it, was silent
for longer than the time to live, or is a process that is gone from this very machine. A run writes to its own table
only and removes lower numbers only, so whatever comes late can neither free nor renew the lock of another run.

The number is also the run's fence: what it writes into its books says under which number, and is written by statements
in which ClickHouse compares that number with the highest. A run that was paused for longer than the time to live, and
goes on beside its successor, therefore writes nothing there. What it had sent before is stopped by its successor, which
finds it by the comment (`log_comment`) that all statements of a holder carry.

The tables are not replicated: on a cluster every run must be pointed at the same node.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from ingest.events import Event, happened, span
from pipeline.errors import LockHeld
from pipeline.warehouse.client import first_line

PREFIX = "writer_lock_"
COMMENT = "polymarket-elt writer"
ATTEMPTS = 5
STOP_TIMEOUT_S = 60.0
CANCELLED_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 5.0
TABLE_ALREADY_EXISTS = 57
UNKNOWN_TABLE = 60
# Tells this process from an earlier one of the same pid: a restarted container counts from 1 again.
PROCESS_ID = uuid.uuid4().hex
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """The run that holds the lock.

    Attributes:
        number: number of its lock table.
        verb: what it runs.
        host, boot_id: name of its machine, and the identity of that machine's kernel since it started ("" where there
            is none to read), because names repeat.
        pid, process_id: its process, and an identity that no other process has.
        acquired_at: when it took the lock, by ClickHouse's clock.
        age_s: seconds since it was last heard of, by the same clock.
    """

    number: int
    verb: str
    host: str
    boot_id: str
    pid: int
    process_id: str
    acquired_at: datetime
    age_s: float

    def __str__(self) -> str:
        return f"`{self.verb}` (pid {self.pid} on {self.host}, since {self.acquired_at:%Y-%m-%d %H:%M:%S} UTC)"

    def is_dead(self, ttl_s: float) -> bool:
        """True if the holder was not heard of for `ttl_s` seconds, or its process is gone from this machine."""
        if self.age_s > ttl_s:
            return True
        if (self.host, self.boot_id) != (socket.gethostname(), _boot_id()):
            return False
        if self.pid == os.getpid():
            return self.process_id != PROCESS_ID
        return not is_alive(self.pid)


class WriterLock:
    """The lock of one landing database."""

    def __init__(self, client: Client, raw_database: str, ttl_s: float):
        self._client = client
        self._database = raw_database
        self._ttl_s = ttl_s
        self._number = 0
        self._is_outlived = self._is_kept = False

    @property
    def number(self) -> int:
        """The number under which this run holds the lock, its fence; 0: it does not."""
        return self._number

    @property
    def comment(self) -> str:
        """The `log_comment` of every statement of this holder."""
        return f"{COMMENT} {self._database} {self._number}"

    def sql_is_held(self) -> str:
        """A condition that ClickHouse evaluates: whether this run still holds the lock."""
        if self._is_outlived and not self._is_kept:
            return "0"
        return self._sql_is_newest()

    def _sql_is_newest(self) -> str:
        return f"{self._number} = ({self._sql_newest()})"

    def holder(self) -> Holder | None:
        """Who holds the lock now (it may be dead), or nobody."""
        return self._newest()[1]

    @contextmanager
    def held(self, verb: str, above: int = 0) -> Iterator[WriterLock]:
        """Hold the lock for the length of the block.

        Args:
            verb: what this run does, for others to read.
            above: take a number greater than this one, which books that are restored name.

        Raises:
            LockHeld: another run holds it, and the message says which; or it was lost, whatever failed because of that.
        """
        self._client.command(f"create database if not exists {self._database}")
        self._acquire(verb, above)
        self._is_outlived = self._is_kept = False
        happened(Event.LOCK_TAKEN, verb=verb, number=self._number)
        self._client.set_client_setting("log_comment", self.comment)
        stop = threading.Event()
        heart = threading.Thread(
            target=self._beat, args=(stop,), name="lock-heartbeat", daemon=True
        )
        try:
            heart.start()
            yield self
        except LockHeld:
            raise
        except Exception as error:
            self._check_after(error)
            raise
        finally:
            stop.set()
            if heart.ident is not None:
                # Not for ever: ClickHouse may have stopped answering. A beat that comes after the release is harmless.
                heart.join(JOIN_TIMEOUT_S)
            with span(Event.LOCK_RELEASED, number=self._number):
                if not self._is_kept:
                    self._release()
            if not self._is_outlived:
                self._number = 0

    def outlive(self, *, is_writing: bool) -> None:
        """Say that threads of this run outlive the block that holds the lock: the process is about to end.

        They prove nothing any more and write nothing into the books.

        Args:
            is_writing: one of them may have a statement under way. The lock is not released then; it ends with the
                process, as after a kill.
        """
        self._is_outlived, self._is_kept = True, is_writing

    def check(self) -> None:
        """Make sure that the lock is still ours; call it before writing.

        Raises:
            LockHeld: it was taken over, because our heartbeat had not come through.
        """
        if self._is_outlived and not self._is_kept:
            raise LockHeld("this run has ended, and writes nothing any more")
        self._check_number()

    def _check_number(self) -> None:
        if self._client.query(f"select {self._sql_is_newest()}").result_rows[0][0]:
            return
        raise LockHeld(
            f"this run lost the writer lock to {self._newest()[1] or 'nobody'}; start it again"
        )

    def _check_after(self, error: Exception) -> None:
        """Make sure that an error is not one of a run that lost its lock, which fails in any way it meets first."""
        try:
            self._check_number()
        except ClickHouseError as unknown:
            log.debug("lock: not known whether it is held: %s", first_line(unknown))
        except LockHeld as lost:
            raise lost from error

    def stop_earlier(self) -> None:
        """Stop statements that earlier holders have sent, so that none of them is still writing afterwards.

        A statement that waits for data of a run that stands still does not end, but is cancelled: it writes nothing more.
        Where ClickHouse does not show its processes to this user, nothing is stopped, and the log says so.

        Raises:
            LockHeld: the lock was lost, or a statement cannot be stopped.
        """
        started = time.monotonic()
        while earlier := self._earlier_statements():
            running = [query_id for query_id, is_cancelled in earlier if not is_cancelled]
            waited_s = time.monotonic() - started
            if not running and waited_s > CANCELLED_TIMEOUT_S:
                return
            if waited_s > STOP_TIMEOUT_S:
                raise LockHeld(
                    f"statements of an earlier run do not end ({', '.join(running)}); try again when they have"
                )
            for query_id in running:
                log.warning("lock: statement %s of an earlier run is stopped", query_id)
                self._client.command(
                    "kill query where query_id = {id:String} async", parameters={"id": query_id}
                )
            time.sleep(0.1)

    def _earlier_statements(self) -> Sequence[Sequence]:
        """Query ids of the statements of earlier holders that have not ended, and whether they are cancelled."""
        prefix = f"{COMMENT} {self._database} "
        try:
            return self._client.query(
                "select query_id, is_cancelled from system.processes"
                " where startsWith(Settings['log_comment'], {prefix:String})"
                " and toUInt32OrZero(substring(Settings['log_comment'], length({prefix:String}) + 1)) < {number:UInt32}",
                parameters={"prefix": prefix, "number": self._number},
            ).result_rows
        except DatabaseError as error:
            log.warning("lock: statements of earlier runs are not seen: %s", first_line(error))
            return []

    def _acquire(self, verb: str, above: int) -> None:
        for _ in range(ATTEMPTS):
            number, holder = self._newest()
            if holder is not None and not holder.is_dead(self._ttl_s):
                raise LockHeld(f"{holder} is writing; wait for it to end, or stop it")
            if self._create(max(number, above) + 1, verb):
                if holder is not None:
                    log.warning(
                        "lock: taken over from %s, not heard of for %.0f s", holder, holder.age_s
                    )
                return
        raise LockHeld("the writer lock is changing hands; try again")

    def _create(self, number: int, verb: str) -> bool:
        """Try to take the lock under this number; False if another run was first."""
        identity = {
            "verb": verb,
            "host": socket.gethostname(),
            "boot_id": _boot_id(),
            "pid": os.getpid(),
            "process_id": PROCESS_ID,
            "acquired_at": self._now().isoformat(),
            "attempt": uuid.uuid4().hex,
            "ttl_s": self._ttl_s,
        }
        # The comment appears together with the table, so a lock always says whose it is.
        comment = f"Writer lock, taken by {json.dumps(identity)}"
        try:
            self._client.command(
                f"""
                create table {self._table(number)}
                (
                    beat_at DateTime64(6, 'UTC') default now64(6, 'UTC') comment 'sign of life of the run',
                    released UInt8 default 0 comment '1: the run has ended'
                )
                engine = MergeTree order by beat_at
                comment %(comment)s
                """,
                parameters={"comment": comment},
            )
        except ClickHouseError as error:
            # It may be ours all the same: the answer was lost, or a request that came twice was refused.
            if self._tables().get(number) != comment:
                if getattr(error, "code", None) == TABLE_ALREADY_EXISTS:
                    return False
                raise
        if self._newest()[0] != number:  # chosen long ago, when lower numbers were still in use
            self._client.command(f"drop table if exists {self._table(number)}")
            return False
        self._number = number
        return True

    def _newest(self) -> tuple[int, Holder | None]:
        """The highest number in use (0: none), and its holder unless it was released."""
        while tables := self._tables():
            number = max(tables)
            try:
                beat_at, released, now = self._client.query(
                    f"select max(beat_at), max(released), now64(6, 'UTC') from {self._table(number)}"
                ).result_rows[0]
            except DatabaseError as error:
                if error.code == UNKNOWN_TABLE:  # removed meanwhile, because there is a higher one
                    continue
                raise
            if released:
                return number, None
            identity = json.loads(tables[number][tables[number].index("{") :])
            for name in ("attempt", "ttl_s"):  # not of the holder; for `_create` and for dbt
                identity.pop(name, None)
            acquired_at = datetime.fromisoformat(identity.pop("acquired_at"))
            last_heard_at = max(acquired_at, beat_at.replace(tzinfo=UTC))
            age_s = (now.replace(tzinfo=UTC) - last_heard_at).total_seconds()
            return number, Holder(number, **identity, acquired_at=acquired_at, age_s=age_s)
        return 0, None

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._ttl_s / 4):
            try:
                if self._newest()[0] != self._number:
                    log.error("lock: lost to another run, because heartbeats had not come through")
                    return
                self._client.command(
                    f"insert into {self._table(self._number)} (released) values (0)"
                )
            except Exception as error:  # whatever it is: a heart that stops gives the lock away
                log.warning("lock: heartbeat failed, trying again: %s", first_line(error))

    def _release(self) -> None:
        try:
            tables = self._tables()
            if self._number in tables:
                self._client.command(
                    f"insert into {self._table(self._number)} (released) values (1)"
                )
            for number in tables:
                if number < self._number:
                    self._client.command(f"drop table if exists {self._table(number)}")
        except ClickHouseError as error:
            log.warning("lock: not released, it expires by itself: %s", first_line(error))

    def _sql_newest(self) -> str:
        """The highest number in use, 0 if there is none; `system.tables` has no rows of a database that is not there."""
        return (
            f"select max(toUInt32(substring(name, {len(PREFIX) + 1}))) from system.tables"
            f" where database = '{self._database}' and match(name, '^{PREFIX}[0-9]+$')"
        )

    def _tables(self) -> dict[int, str]:
        """Comments of the lock tables by number."""
        rows = self._client.query(
            "select toUInt32(substring(name, length({prefix:String}) + 1)), comment from system.tables"
            " where database = {database:String} and match(name, concat('^', {prefix:String}, '[0-9]+$'))",
            parameters={"database": self._database, "prefix": PREFIX},
        ).result_rows
        return dict(rows)

    def _table(self, number: int) -> str:
        return f"{self._database}.{PREFIX}{number}"

    def _now(self) -> datetime:
        now = self._client.query("select now64(6, 'UTC')").result_rows[0][0]
        return now.replace(tzinfo=UTC)


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Requests of `backup` to the run that holds the writer lock, in the table `backup_requests` of the landing database.

The table is no part of a backup, and is made by the first request. One that was not repeated lately is of a run that is
gone, and counts for nothing.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

TABLE = "backup_requests"
SILENT_S = 30


class BackupRequests:
    """Reads and writes the requests of one landing database."""

    def __init__(self, client: Client, raw_database: str) -> None:
        self._client = client
        self._table = f"{raw_database}.{TABLE}"

    def exist(self) -> bool:
        """Whether there was ever one."""
        return bool(self._client.command(f"exists table {self._table}"))

    def make(self) -> None:
        """Make the table unless it is there."""
        self._client.command(f"""
            create table if not exists {self._table}
            (
                id String comment 'of the request',
                event LowCardinality(String) comment 'waiting (again and again), taken, done or failed',
                detail String comment 'done: what is known of the backup, JSON; failed: why',
                at DateTime64(6, 'UTC') default now64(6, 'UTC') comment 'when'
            )
            engine = MergeTree order by (id, at) ttl toDateTime(at) + interval 1 day
            comment 'Backups that are asked of the run that holds the writer lock; no part of a backup'
        """)

    def note(self, request: str, event: str, detail: str = "") -> None:
        """Write down what happened to a request: waiting, taken, done or failed."""
        self._client.command(
            f"insert into {self._table} (id, event, detail)"
            " select {id:String}, {event:String}, {detail:String}",
            parameters={"id": request, "event": event, "detail": detail},
        )

    def waiting(self) -> list[str]:
        """Requests that nobody has taken, of runs that wait still."""
        rows = self._client.query(
            f"select id from {self._table} group by id"
            f" having countIf(event != 'waiting') = 0 and max(at) > now64(6) - {SILENT_S}"
        ).result_rows
        return [request for (request,) in rows]

    def answer(self, request: str) -> tuple[str, str] | None:
        """Whether a request is done or failed, and the detail; None: neither yet."""
        rows = self._client.query(
            f"select event, detail from {self._table} where id = {{id:String}} and event in ('done', 'failed')",
            parameters={"id": request},
        ).result_rows
        return tuple(rows[0]) if rows else None

"""The connection to ClickHouse, whichever it is.

Everything above speaks the HTTP interface through clickhouse-connect; only `connect` knows whether the server was
configured or the embedded one was started for this run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from embedded_clickhouse import EmbeddedError, running
from ingest.query_settings import PINNED
from ingest.whole_answers import pool_manager
from pipeline.errors import ClickHouseUnavailable
from pipeline.settings import Settings
from pipeline.warehouse.ports import owner_of


@dataclass(frozen=True)
class Server:
    """Where a ClickHouse listens, as every client of this run needs it."""

    host: str
    port: int
    user: str
    password: str
    secure: bool
    embedded: bool

    def __str__(self) -> str:
        kind = "embedded ClickHouse" if self.embedded else "ClickHouse"
        return f"{kind} at {self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Environment variables by which `profiles.yml` finds this server."""
        return {
            "CLICKHOUSE_HOST": self.host,
            "CLICKHOUSE_PORT": str(self.port),
            "CLICKHOUSE_USER": self.user,
            "CLICKHOUSE_PASSWORD": self.password,
            "CLICKHOUSE_SECURE": "true" if self.secure else "false",
        }


@contextmanager
def server(settings: Settings) -> Iterator[Server]:
    """The configured server, or the embedded one kept up for the length of the block.

    Raises:
        ClickHouseUnavailable: the embedded one cannot be started.
    """
    if not settings.embedded:
        yield Server(
            settings.clickhouse_host,
            settings.clickhouse_port,
            settings.clickhouse_user,
            settings.clickhouse_password.get_secret_value(),
            settings.clickhouse_secure,
            embedded=False,
        )
        return
    with ExitStack() as stack:
        try:
            endpoint = stack.enter_context(
                running(
                    settings.clickhouse_local_path,
                    settings.clickhouse_local_port,
                    access=settings.clickhouse_local_access,
                    max_memory=settings.clickhouse_local_memory_bytes,
                )
            )
        except EmbeddedError as error:
            raise ClickHouseUnavailable(
                why_not_started(error, settings.clickhouse_local_port)
            ) from error
        yield Server(
            endpoint.host, endpoint.port, endpoint.user, endpoint.password, False, embedded=True
        )


def why_not_started(error: EmbeddedError, port: int) -> str:
    """What keeps the embedded ClickHouse from starting; names the process that has its port."""
    if f"Port {port} is taken" in str(error):  # as its own process says, which may be another one
        return f"port {port} is taken by {owner_of(port)}: set CLICKHOUSE_LOCAL_PORT to a free one"
    return str(error)


def connect(target: Server, timeout_s: int = 600) -> Client:
    """Open a client without a session, so that threads may share it.

    Args:
        timeout_s: longest wait for an answer, seconds.

    Raises:
        ClickHouseUnavailable: nothing answers there, or it refuses the user.
    """
    try:
        return clickhouse_connect.get_client(
            host=target.host,
            port=target.port,
            username=target.user,
            password=target.password,
            secure=target.secure,
            pool_mgr=pool_manager(target.host, target.port, target.secure),
            autogenerate_session_id=False,
            connect_timeout=10,
            send_receive_timeout=timeout_s,
            settings=PINNED | {"async_insert": 0},
        )
    except OperationalError as error:
        raise ClickHouseUnavailable(
            f"{target} does not answer ({_reason(error)}); is it up, and are CLICKHOUSE_HOST and"
            " CLICKHOUSE_PORT right?"
        ) from error
    except ClickHouseError as error:
        raise ClickHouseUnavailable(
            f"{target} refuses the connection: {first_line(error)}"
        ) from error


def _reason(error: BaseException) -> str:
    """What the operating system said, wherever in the chain of causes it stands; else the error's first line."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return _first_line(str(error) or type(error).__name__)


def first_line(error: BaseException) -> str:
    """The message of an error, cut to its first line and without ClickHouse's version tail.

    Of a connection that failed it says what the operating system said, not what urllib3 tried.
    """
    text = str(error).strip() or type(error).__name__
    if "ConnectionPool(" in text and (reason := _reason(error)) not in text[:60]:
        return f"it does not answer ({reason})"
    return _first_line(text)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].split(" (for url")[0]

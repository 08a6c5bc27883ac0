"""The server process: owns a data folder, listens, and ends in order.

`serve` promises that one process serves a folder, that nothing but loopback is reachable without a
password, and that SIGTERM and SIGINT end it within a few seconds: it stops accepting, gives running
statements a moment, cancels the rest and closes the engine.
"""

import asyncio
import errno
import ipaddress
import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from embedded_clickhouse.ownership import EmbeddedError, OwnerLock, UnusedLock, make_folder

if TYPE_CHECKING:
    from embedded_clickhouse.app import Front

DEFAULT_PORT = 18123
_CHECK_S = 0.1  # how often the server looks whether it has to stop
_FINISH_S = 2  # what a statement that runs at the stop has to finish
_CANCEL_S = 3  # what it has to end once it is cancelled
_KEEP_ALIVE_S = 3600
_OPEN_FILES = 65_536  # connections, pipes, parts; a shell often allows 1024
_MAX_URL_BYTES = 1024 * 1024  # ClickHouse's http_max_uri_size


def serve(
    path: Path,
    port: int = DEFAULT_PORT,
    *,
    host: str = "127.0.0.1",
    user: str = "default",
    password: str = "",
    max_memory: int | None = None,
    min_free: int | None = None,
    until_unused: bool = False,
    on_ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve the data folder until a signal ends the process, or nobody uses it.

    Args:
        path: data folder, made if missing.
        port: TCP port; 0 takes a free one.
        host: address to listen on.
        user: the only user.
        password: their password; needed to listen on anything but loopback.
        max_memory: bytes the engine may use altogether; by default half of the machine's.
        min_free: bytes that have to be free on the disk for anything to be written.
        until_unused: stop once no process holds the folder's users.lock.
        on_ready: called with address and port once clients may connect.

    Raises:
        EmbeddedError: the folder is served by another process or cannot be used, the port is taken,
            or the address is open to others without a password.
        KeyboardInterrupt: after an orderly end by SIGINT. SIGTERM, after such an end, ends the
            process.
    """
    if not password and not _is_loopback(host):
        raise EmbeddedError(
            f"Listening on {host} lets others in: set CLICKHOUSE_PASSWORD, or listen on 127.0.0.1."
        )
    make_folder(path)
    lock = OwnerLock(path)
    listener = _listen(host, port)
    _prepare_process(path)
    front = _open(path, max_memory, min_free, user, password)
    lock.publish(host, listener.getsockname()[1])
    if on_ready is not None:
        on_ready(host, listener.getsockname()[1])
    config = uvicorn.Config(
        front.app,
        http="h11",
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FINISH_S + _CANCEL_S,
        h11_max_incomplete_event_size=_MAX_URL_BYTES,
    )
    unused = UnusedLock(path) if until_unused else None
    asyncio.run(_serve(uvicorn.Server(config), listener, front, unused))


def _prepare_process(path: Path) -> None:
    """Set the time zone of ClickHouse's own image, room for large results, and enough files."""
    # Results that are held back go to the data's disk: the system's folder may be in memory.
    tempfile.tempdir = str(path)
    os.environ["TZ"] = "UTC"
    time.tzset()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open(
    path: Path, max_memory: int | None, min_free: int | None, user: str, password: str
) -> "Front":
    # Loaded this late because the engine takes the time zone while it is loaded, and because
    # those who only start a server need none of it.
    from embedded_clickhouse.app import Front
    from embedded_clickhouse.engine import MIN_FREE_BYTES, Engine

    room = MIN_FREE_BYTES if min_free is None else min_free
    try:
        return Front(Engine(path / "engine", max_memory, room), user, password)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EmbeddedError(f"Cannot open the ClickHouse data in {path}: {reason}") from None


async def _serve(
    server: uvicorn.Server, listener: socket.socket, front: "Front", unused: UnusedLock | None
) -> None:
    supervising = asyncio.create_task(_supervise(server, front, unused))
    await server.serve(sockets=[listener])
    supervising.cancel()


async def _supervise(server: uvicorn.Server, front: "Front", unused: UnusedLock | None) -> None:
    """Stop the server when it is unused, and its statements some time after it was told to stop."""
    while not server.should_exit:
        await asyncio.sleep(_CHECK_S)
        if unused is not None and unused.acquired():
            server.should_exit = True
    await asyncio.sleep(_FINISH_S)
    front.cancel_statements()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may stand for any address
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Naming the protocol makes asyncio set TCP_NODELAY, without which an answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise EmbeddedError(
                f"Port {port} is taken by another program: set CLICKHOUSE_LOCAL_PORT to a free one."
            ) from None
        raise EmbeddedError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    return listener

"""The server process: owns a data folder, listens, and ends in order.

`serve` promises that one process serves a folder, that nobody but its owner can read it, and that
nothing but loopback is reachable without a password. SIGTERM and SIGINT end it within a few
seconds: it stops accepting, gives running statements a moment, cancels the rest and closes the
engine.
"""

import asyncio
import errno
import ipaddress
import os
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from embedded_clickhouse import landlock
from embedded_clickhouse.access import SOURCES, separate_default, write_configuration
from embedded_clickhouse.backups import Folders
from embedded_clickhouse.connections import PATIENCE_S, Connection
from embedded_clickhouse.guard import Guard
from embedded_clickhouse.ownership import EmbeddedError, OwnerLock, UnusedLock, make_folder
from embedded_clickhouse.passwords import OWNER, READER, password_of
from embedded_clickhouse.users import Users
from embedded_clickhouse.versions import EngineVersion, VersionFile

if TYPE_CHECKING:
    from embedded_clickhouse.app import Front

DEFAULT_PORT = 18123
_CHECK_S = 0.1  # how often the server looks whether it has to stop
_FINISH_S = 2  # what a statement that runs at the stop has to finish
_CANCEL_S = 3  # what it has to end once it is cancelled
_KEEP_ALIVE_S = 3600
_OPEN_FILES = 65_536  # connections, pipes, parts; a shell often allows 1024
_MAX_URL_BYTES = 1024 * 1024  # ClickHouse's http_max_uri_size


@dataclass(frozen=True)
class Access:
    """Who may do what; see docs/security.md.

    Attributes:
        password: the owner's; None: the one in the data folder, made at the first start; empty: none is asked for.
        files: the folder in which SQL may read and write files; None: `files` in the data folder.
        sources: what else SQL may reach: names of `access.SOURCES`, such as URL and S3.
        origins: web pages that may ask, as `https://name:port`.
    """

    password: str | None = None
    files: Path | None = None
    sources: Sequence[str] = ()
    origins: Sequence[str] = ()


def serve(
    path: Path,
    port: int = DEFAULT_PORT,
    *,
    host: str = "127.0.0.1",
    user: str = OWNER,
    access: Access | None = None,
    max_memory: int | None = None,
    min_free: int | None = None,
    patience: float = PATIENCE_S,
    until_unused: bool = False,
    on_ready: Callable[[str, int], None] | None = None,
) -> None:
    """Serve the data folder until a signal ends the process, or nobody uses it.

    From then on this process is confined: see `landlock.confine`.

    Args:
        path: data folder, made if missing.
        port: TCP port; 0 takes a free one.
        host: address to listen on.
        user: name of the owner; beside it there is the read-only user `dashboard`.
        access: who may do what.
        max_memory: bytes the engine may use altogether; by default half of the machine's.
        min_free: bytes that have to be free on the disk for anything to be written.
        patience: seconds a client may send or take nothing before its connection is closed.
        until_unused: stop once no process holds the folder's users.lock.
        on_ready: called with address and port once clients may connect.

    Raises:
        EmbeddedError: the folder is served by another process, is of a newer engine or cannot be
            used, the port is taken, a source has no such name, or the address is open to others without a password.
        KeyboardInterrupt: after an orderly end by SIGINT. SIGTERM, after such an end, ends the
            process.
    """
    access = access or Access()
    _check(access, host)
    make_folder(path)
    lock = OwnerLock(path)
    unused = UnusedLock(path) if until_unused else None
    listener = _listen(host, port)
    users = _users(path, user, access)
    front = _open(path, access, users, max_memory, min_free, patience)
    Connection.patience = patience
    lock.publish(host, listener.getsockname()[1])
    if on_ready is not None:
        on_ready(host, listener.getsockname()[1])
    asyncio.run(_serve(_http_server(front, access, host), listener, front, unused))


def _check(access: Access, host: str) -> None:
    """Refuse an access that lets everybody in, or names a source that there is not."""
    if access.password == "" and not _is_loopback(host):
        raise EmbeddedError(
            f"Listening on {host} lets others in: unset CLICKHOUSE_LOCAL_NO_PASSWORD, or listen on"
            " 127.0.0.1."
        )
    if unknown := [name for name in access.sources if name.upper() not in SOURCES]:
        raise EmbeddedError(
            f"There is no source {unknown[0]}: CLICKHOUSE_LOCAL_SOURCES takes {', '.join(SOURCES)}."
        )


def _http_server(front: "Front", access: Access, host: str) -> uvicorn.Server:
    names = [] if _is_loopback(host) else [host, socket.gethostname(), socket.getfqdn()]
    config = uvicorn.Config(
        Guard(front.app, names, access.origins),
        http=Connection,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_FINISH_S + _CANCEL_S,
        h11_max_incomplete_event_size=_MAX_URL_BYTES,
    )
    return uvicorn.Server(config)


def _users(path: Path, owner: str, access: Access) -> Users:
    try:
        password = password_of(path, OWNER) if access.password is None else access.password
        return Users(password, password_of(path, READER), owner)
    except OSError as error:
        raise EmbeddedError(f"Cannot keep passwords in {path}: {error.strerror}.") from None


def _prepare_process(path: Path) -> None:
    """Set the time zone of ClickHouse's own image, room for large results, and enough files."""
    # Results that are held back go to the data's disk: the system's folder may be in memory.
    temporary = path / "tmp"
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    os.environ["TZ"] = "UTC"
    time.tzset()
    os.chdir(temporary)  # the engine would take a config.xml of the current folder for its own
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open(
    path: Path,
    access: Access,
    users: Users,
    max_memory: int | None,
    min_free: int | None,
    patience: float,
) -> "Front":
    os.umask(0o077)
    path = path.resolve()
    engine, files = path / "engine", (access.files or path / "files").resolve()
    sources, backups = [name.upper() for name in access.sources], Folders.of(path)
    try:
        version_file, installed = VersionFile(path), EngineVersion.installed()
        version_file.refuse_newer(installed)
        for folder in (engine, files, backups.written, backups.kept):
            folder.mkdir(parents=True, exist_ok=True)
        separate_default(engine)
        configuration = write_configuration(engine, files, sources, landlock.version() > 0)
        _prepare_process(path)
        # Before the engine is loaded: it starts threads, which are confined only if they come later.
        is_confined = landlock.confine(
            [engine, files, path / "tmp"],
            [configuration.parent, backups.kept],
            may_connect=bool(sources),
        )
    except OSError as error:
        raise EmbeddedError(
            f"Cannot open the ClickHouse data in {path}: {error.filename or path}: {error.strerror}."
        ) from None
    # Loaded this late because the engine takes the time zone while it is loaded, and because
    # those who only start a server need none of it.
    from embedded_clickhouse.app import Front
    from embedded_clickhouse.engine import MIN_FREE_BYTES, Engine
    from embedded_clickhouse.forbidden import Limits

    room = MIN_FREE_BYTES if min_free is None else min_free
    try:
        opened = Engine(engine, configuration, max_memory, room)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise EmbeddedError(f"Cannot open the ClickHouse data in {path}: {reason}") from None
    version_file.write(replace(installed, engine=opened.version))
    os.chdir(files)  # relative paths of SQL begin there
    return Front(opened, users, Limits(is_confined, bool(sources), backups), patience)


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

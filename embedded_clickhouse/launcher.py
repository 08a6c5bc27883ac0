"""Start on demand: whoever needs the embedded ClickHouse runs inside `with running(…)`.

The first user of a data folder starts its server as a process of its own, later ones share it, and
it stops by itself when the last one is gone, in whatever way. It promises an endpoint that answers;
what is asked of it is the caller's.
"""

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embedded_clickhouse.ownership import (
    EmbeddedError,
    Owner,
    is_owned,
    make_folder,
    open_private,
    read_owner,
    using,
)
from embedded_clickhouse.passwords import OWNER, password_of
from embedded_clickhouse.server import Access

PASSWORD_VARIABLE = "EMBEDDED_CLICKHOUSE_PASSWORD"
_START_TIMEOUT_S = 60
# What a server needs of its starter's environment. The rest may be secret, and is of no use to it.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH")
_POLL_S = 0.02


@dataclass(frozen=True)
class Endpoint:
    """Where the server of a data folder listens, and as whom to connect.

    Attributes:
        host, port: its address.
        pid: its process.
        user, password: the owner; an empty password if none is asked for.
    """

    host: str
    port: int
    pid: int
    user: str = OWNER
    password: str = ""


@contextlib.contextmanager
def running(
    path: Path,
    port: int,
    *,
    user: str = OWNER,
    access: Access | None = None,
    max_memory: int | None = None,
    min_free: int | None = None,
    patience: float | None = None,
) -> Iterator[Endpoint]:
    """Have a server of the data folder `path` for as long as the block runs.

    A server that is already up is used as it is, wherever it listens. Otherwise one is started on
    `port` of 127.0.0.1 (0: a free one); it outlives the block only while other processes use it.

    Args:
        path: data folder, made if missing.
        port: TCP port to start on.
        user: name of the owner, if it is started here.
        access: who may do what, if it is started here.
        max_memory: bytes the engine may use altogether; by default half of the machine's.
        min_free: bytes that have to be free on the disk for anything to be written.
        patience: seconds a client may send or take nothing; by default 30.

    Raises:
        EmbeddedError: it cannot be started; the message says why.
    """
    access = access or Access()
    make_folder(path)
    with using(path):
        limits = {"--max-memory": max_memory, "--min-free": min_free, "--patience": patience}
        command = _command(path, port, user, access, limits)
        owner = _reach(path, command, access.password)
        try:
            password = password_of(path, OWNER) if access.password is None else access.password
        except OSError as error:
            raise EmbeddedError(
                f"Cannot read the password in {path}: {error.strerror}; use the data as the user who made them."
            ) from None
        yield Endpoint(owner.host, owner.port, owner.pid, user, password)


def _reach(path: Path, command: list[str], password: str | None) -> Owner:
    """Wait for the folder's server to answer; start one if nobody does."""
    log = path / "server.log"
    server = None
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        owner = read_owner(path)
        if owner is not None and _answers(owner):
            return owner
        if server is None and not is_owned(path):
            server = _start(command, password, log)
        elif server is not None and server.poll() is not None and not is_owned(path):
            raise EmbeddedError(_last_line(log) or f"The embedded ClickHouse did not start: {log}")
        time.sleep(_POLL_S)
    if server is not None:
        server.terminate()
    raise EmbeddedError(
        f"The embedded ClickHouse did not answer in {_START_TIMEOUT_S} s: see {log}"
    )


def _command(
    path: Path, port: int, user: str, access: Access, limits: dict[str, float | None]
) -> list[str]:
    command = [sys.executable, "-m", "embedded_clickhouse", "--until-unused"]
    command += ["--path", str(path.resolve()), "--port", str(port), "--user", user]
    if access.files is not None:
        command += ["--files", str(access.files.resolve())]
    for option, values in (("--source", access.sources), ("--origin", access.origins)):
        for value in values:
            command += [option, value]
    for option, limit in limits.items():
        if limit is not None:
            command += [option, str(limit)]
    return command


def _start(command: list[str], password: str | None, log: Path) -> subprocess.Popen:
    package_parent = str(Path(__file__).resolve().parent.parent)
    search_path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment["PYTHONPATH"] = search_path
    if password is not None:
        environment[PASSWORD_VARIABLE] = password
    with open_private(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,  # Ctrl-C at a user of the server must not end the server
        )


def _answers(owner: Owner) -> bool:
    connection = http.client.HTTPConnection(owner.host, owner.port, timeout=2)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().read() == b"Ok.\n"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1].strip() if lines else ""

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
    read_owner,
    using,
)

_START_TIMEOUT_S = 60
_POLL_S = 0.02


@dataclass(frozen=True)
class Endpoint:
    """Where the server of a data folder listens."""

    host: str
    port: int
    pid: int


@contextlib.contextmanager
def running(
    path: Path,
    port: int,
    *,
    user: str = "default",
    password: str = "",
    max_memory: int | None = None,
    min_free: int | None = None,
) -> Iterator[Endpoint]:
    """Have a server of the data folder `path` for as long as the block runs.

    A server that is already up is used as it is, wherever it listens. Otherwise one is started on
    `port` of 127.0.0.1 (0: a free one); it outlives the block only while other processes use it.

    Args:
        path: data folder, made if missing.
        port: TCP port to start on.
        user: the only user, if it is started here.
        password: their password.
        max_memory: bytes the engine may use altogether; by default half of the machine's.
        min_free: bytes that have to be free on the disk for anything to be written.

    Raises:
        EmbeddedError: it cannot be started; the message says why.
    """
    make_folder(path)
    with using(path):
        limits = {"--max-memory": max_memory, "--min-free": min_free}
        command = _command(path, port, user, limits)
        owner = _reach(path, command, password)
        yield Endpoint(owner.host, owner.port, owner.pid)


def _reach(path: Path, command: list[str], password: str) -> Owner:
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


def _command(path: Path, port: int, user: str, limits: dict[str, int | None]) -> list[str]:
    command = [sys.executable, "-m", "embedded_clickhouse", "--until-unused"]
    command += ["--path", str(path), "--port", str(port), "--user", user]
    for option, limit in limits.items():
        if limit is not None:
            command += [option, str(limit)]
    return command


def _start(command: list[str], password: str, log: Path) -> subprocess.Popen:
    package_parent = str(Path(__file__).resolve().parent.parent)
    search_path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    environment = os.environ | {
        "EMBEDDED_CLICKHOUSE_PASSWORD": password,
        "PYTHONPATH": search_path,
    }
    with log.open("ab") as output:
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

"""Who owns a data folder: one server process, and the processes that use it.

Two lock files in the folder tell: `owner.lock`, held by the server and naming it, and `users.lock`,
held in shared mode by everyone who needs the server. The kernel drops both locks when a process
ends in whatever way, so neither can be stale.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any


class EmbeddedError(Exception):
    """The embedded ClickHouse cannot start; the message is one line that says what to do."""


@dataclass(frozen=True)
class Owner:
    """The server process of a data folder."""

    pid: int
    host: str
    port: int
    started: str  # ISO time, UTC


def make_folder(path: Path) -> None:
    """Make the data folder unless it is there, open to its owner only.

    Raises:
        EmbeddedError: it cannot be made, or chDB would misread its name.
    """
    if "?" in str(path):
        raise EmbeddedError(
            f"The folder {path} has a question mark in its name: set CLICKHOUSE_LOCAL_PATH to one "
            "without."
        )
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid == os.getuid():  # made by a version that left it open to others
            path.chmod(0o700)
        (path / "owner.lock").touch(mode=0o600)
    except OSError as error:
        raise EmbeddedError(
            f"Cannot keep ClickHouse data in {path} ({error.strerror}): set CLICKHOUSE_LOCAL_PATH "
            "to a folder you may write to."
        ) from None


class OwnerLock:
    """The exclusive right to serve a folder, held until the process ends.

    Raises:
        EmbeddedError: another process serves it; the message names that process.
    """

    def __init__(self, path: Path) -> None:
        self._file = _open(path / "owner.lock")
        for _ in range(20):  # `read_owner` of another process holds it for a moment
            if _try_lock(self._file, fcntl.LOCK_EX):
                break
            time.sleep(0.01)
        else:
            owner = read_owner(path)
            self._file.close()
            raise EmbeddedError(_in_use(path, owner))

        # Until `publish`, nobody must be sent to where the last owner listened.
        self._file.truncate(0)

    def publish(self, host: str, port: int) -> None:
        """Write down where this process listens."""
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = json.dumps(asdict(Owner(os.getpid(), host, port, started)))
        self._file.write(text + "\n")
        self._file.flush()


def _in_use(path: Path, owner: Owner | None) -> str:
    if owner is None:
        return f"The ClickHouse data in {path} is being opened by another process: try again."
    return (
        f"The ClickHouse data in {path} is in use by process {owner.pid}, which serves it at "
        f"{owner.host}:{owner.port}: connect there, or stop that process first."
    )


def is_owned(path: Path) -> bool:
    """Whether a process holds the folder, be it that it serves, starts or stops."""
    with _open(path / "owner.lock") as file:
        return not _try_lock(file, fcntl.LOCK_SH)


def read_owner(path: Path) -> Owner | None:
    """The server that holds the folder right now; None if there is none, or it is just starting."""
    try:
        return Owner(**json.loads((path / "owner.lock").read_text())) if is_owned(path) else None
    except ValueError:  # not published yet
        return None


@contextlib.contextmanager
def using(path: Path) -> Iterator[None]:
    """Count as a user of the folder's server, which then does not stop for want of users.

    Waits while a server that found itself unused is on its way out.
    """
    with _open(path / "users.lock") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


class UnusedLock:
    """Lets a server find out that nobody uses it, and keeps new users waiting from then on."""

    def __init__(self, path: Path) -> None:
        self._file = _open(path / "users.lock")

    def acquired(self) -> bool:
        """Whether nobody uses the server. Once true, users wait until this process has ended."""
        return _try_lock(self._file, fcntl.LOCK_EX)


def _open(path: Path) -> IO[str]:
    return open_private(path, "a+")


def open_private(path: Path, mode: str) -> IO[Any]:
    """Open a file that only its owner can read, if it is made now."""
    return open(path, mode, opener=lambda name, flags: os.open(name, flags, 0o600))


def _try_lock(file: IO[str], mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

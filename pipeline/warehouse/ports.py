"""Who listens on a TCP port of this machine, as Linux tells it in /proc; elsewhere nobody is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

LISTENING = "0A"
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def owner_of(port: int) -> str:
    """The process that listens on a port, in words; `another program` where it is not ours to see.

    Its arguments are left out, because they may hold a password.
    """
    sockets = set(_sockets(port))
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        try:
            if any(each.readlink().name in sockets for each in (folder / "fd").iterdir()):
                name, where = (folder / "comm").read_text().strip(), (folder / "cwd").readlink()
                return f"process {folder.name} ({name}, in {where})"
        except OSError:  # of another user, or gone by now
            continue
    return "another program"


def _sockets(port: int) -> Iterator[str]:
    """Names, as in /proc/<pid>/fd, of the sockets that listen on a port."""
    for table in TABLES:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{words[9]}]"

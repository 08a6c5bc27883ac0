"""Who holds the writer lock: a process that can be told from every other one, and whether it still lives."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

# Tells this process from an earlier one of the same pid: a restarted container counts from 1 again.
PROCESS_ID = uuid.uuid4().hex


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


def this_process() -> dict[str, str | int]:
    """What `Holder` says of a process, of this one."""
    return {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid": os.getpid(),
        "process_id": PROCESS_ID,
    }


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

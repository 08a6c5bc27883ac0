"""What the machine is, and what a process has used of it; Linux' own books in /proc."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int | str = "self") -> float:
    """CPU seconds that a process has used, in user and kernel mode, all of its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mb(pid: int | str = "self") -> float:
    """Largest resident memory of a process so far, MB (1e6 bytes)."""
    return _status(pid, "VmHWM") * 1024 / 1e6


def reset_peak(pid: int | str = "self") -> None:
    """Let the peak begin anew with what the process takes now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def describe() -> str:
    """Processors, memory, system and load, in one line."""
    model = [
        x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    name = model[0].partition(": ")[2] if model else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = "/".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{os.cpu_count()} × {name}, {memory:.0f} GB, {platform.system()},"
        f" Python {platform.python_version()}, load {load}"
    )


def _status(pid: int | str, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(f"no {name} in the status of process {pid}")

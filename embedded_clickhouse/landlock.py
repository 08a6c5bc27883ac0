"""Confines this process by the kernel's means (Linux 5.13 and later): folders, programs, connections.

What SQL text may name has no end (table functions, scalar functions, engines, dictionaries, format
settings), so the kernel has the last word: after `confine` the process opens files only beneath the
folders it was given, starts no program, and connects to nothing unless that is allowed. The
restriction holds for all threads that are started afterwards, and nothing can lift it.

Facts: docs.kernel.org/userspace-api/landlock.html and include/uapi/linux/landlock.h.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same number on every architecture
_VERSION_ONLY = 1
_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
# Rights by the version of the kernel's interface that brought them.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_CONNECT_TCP, _CONNECT_SINCE = 1 << 1, 4

# What the engine and Python read of the system. Nothing of /proc that shows a process's environment.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/bin", "/opt", "/nix", "/etc/ssl", "/etc/pki", "/etc/localtime"),
    *("/etc/ld.so.cache", "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf"),
    *("/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/sys", "/proc/loadavg", "/proc/uptime"),
    *("/proc/self/status", "/proc/self/statm", "/proc/self/stat", "/proc/self/maps"),
    *("/proc/self/cgroup", "/proc/self/mountinfo", "/proc/self/limits"),
    *("/sys/fs/cgroup", "/sys/devices/system", "/dev/urandom", "/dev/random", "/dev/null"),
)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("access", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's interface; 0 where it has none, or does not offer it."""
    if sys.platform != "linux":
        return 0
    return max(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION_ONLY), 0)


def confine(folders: Iterable[Path], readable: Iterable[Path], *, may_connect: bool) -> bool:
    """Leave this process some folders to read and write, others and the system's libraries to read, nothing else.

    Call it before any thread is started that has to be confined too.

    Args:
        folders: to read and write; they have to exist.
        readable: to read only.
        may_connect: whether it may open TCP connections. Kernels before 6.7 cannot forbid it.

    Returns:
        Whether the kernel enforces it; False where it has no Landlock.

    Raises:
        OSError: the kernel has it, and refuses.
    """
    known = version()
    if not known:
        return False
    handled = sum(right for since, right in _RIGHTS.items() if since <= known)
    network = _CONNECT_TCP if known >= _CONNECT_SINCE and not may_connect else 0
    rules = _Ruleset(handled, network)
    size = ctypes.sizeof(rules) if known >= _CONNECT_SINCE else 8
    ruleset = _call(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    try:
        for folder in folders:
            _allow(ruleset, folder, handled & ~_EXECUTE)
        for path in (*_SYSTEM, *_python_folders(), *readable):
            _allow(ruleset, Path(path), handled & _READ)
        _allow(ruleset, Path("/dev/null"), handled & _OF_FILES)
        _check(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _python_folders() -> set[str]:
    """Where Python's modules are; not every folder of its path, which may be a project with secrets."""
    packages = [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    return {sys.prefix, sys.base_prefix, str(Path(__file__).parent), *packages}


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # this system has no such path
        return
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            access &= _OF_FILES
        rule = _PathBeneath(access, opened)
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)


def _call(number: int, *arguments: object) -> int:
    return _check(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

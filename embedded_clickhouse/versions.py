"""Which engine wrote a data folder: a small file beside `engine/`, and the refusal to go back.

A newer engine opens what an older one wrote; ClickHouse promises nothing the other way round. So the
file names the engine that opened the folder last, and a folder of a newer release line (`26.9`) is
not opened by an older one. Patches of one line read each other's data. A folder without the file is
of a version of this project before there was one, and is opened.
"""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

from embedded_clickhouse.ownership import EmbeddedError

_NAME = "engine.version"


@dataclass(frozen=True)
class EngineVersion:
    """An engine.

    Attributes:
        package: release of the package chdb-core, such as 26.9.0.
        engine: what its `version()` says, such as 26.9.2.1; empty until it is loaded.
    """

    package: str
    engine: str = ""

    @classmethod
    def installed(cls) -> Self:
        """The one of this environment, which is not loaded for that."""
        return cls(version("chdb-core"))

    @property
    def line(self) -> tuple[int, int]:
        """Year and number of its release line; (0, 0) if the release is not named like that."""
        year, _, rest = self.package.partition(".")
        number = rest.partition(".")[0]
        return (int(year), int(number)) if year.isdigit() and number.isdigit() else (0, 0)

    def __str__(self) -> str:
        return f"chdb-core {self.package}"


class VersionFile:
    """The version file of one data folder.

    It is opened at once, because a process that is confined cannot open it any more.

    Args:
        path: data folder, which has to exist.

    Raises:
        OSError: the file can be neither read nor made.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._path = path
        self._file = os.fdopen(os.open(path / _NAME, flags, 0o600), "r+")

    def written_by(self) -> EngineVersion | None:
        """The engine that opened the folder last; None if the file is new, or was cut off."""
        self._file.seek(0)
        try:
            written = json.loads(self._file.read())
            return EngineVersion(str(written["package"]), str(written.get("engine", "")))
        except (ValueError, TypeError, KeyError):
            return None

    def refuse_newer(self, installed: EngineVersion) -> None:
        """Make sure that the installed engine is not of an older line than the one that wrote the folder.

        Raises:
            EmbeddedError: it is.
        """
        before = self.written_by()
        if before is not None and before.line > installed.line:
            raise EmbeddedError(
                f"The ClickHouse data in {self._path} were written by {before}, and {installed} is older:"
                f" install chdb-core {before.package} or newer, or restore a backup that {installed}"
                " made into another CLICKHOUSE_LOCAL_PATH (docs/operations.md)."
            )

    def write(self, opened: EngineVersion) -> None:
        """Note that this engine has opened the folder, and close the file.

        On a full disk nothing is noted, because data that can still be read matter more.
        """
        with contextlib.suppress(OSError), self._file:
            if opened != self.written_by():
                self._file.seek(0)
                self._file.write(json.dumps(asdict(opened)) + "\n")
                self._file.truncate()
                self._file.flush()
                os.fsync(self._file.fileno())

"""The folder of one exported table: its files, each whole or not there, and a note of what each holds.

A file is written beside the folder under a name that begins with a dot, brought to the disk, and then given its name. The
note, `<table>.export.json` beside the folder, says with which options it was made, and of every file its rows, its size and
a hash of its content in ClickHouse; a file that is not as noted is written again. So a kill at any moment costs at most
work. Nothing but finished files is ever in the folder, because some readers take every file that they find there.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from embedded_clickhouse.compression import zstd
from pipeline.errors import ExportError

# What a note may name, so that nothing else is ever removed.
FILE = re.compile(r"((date|month)=[0-9-]+/)?[a-z0-9_]+(\.[a-z]+){1,2}")
NOTE_EVERY_S = 5.0
COMPRESSIONS = ("none", "gz", "zst")


@dataclass(frozen=True)
class Kept:
    """What a file holds.

    Attributes:
        content: hash of its rows in ClickHouse.
    """

    rows: int
    bytes: int
    content: int


class Folder:
    """The folder of a table, while one export has it to itself; see `opened`.

    Attributes:
        path: absolute; its name is that of the table.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self.path = path
        self._note = path.with_name(f"{path.name}.export.json")
        self._draft = path.with_name(f".{path.name}.partial")
        self._options = options
        self._kept: dict[str, Kept] = {}
        self._noted_at = time.monotonic()

    def is_as(self, name: str, content: int, rows: int) -> bool:
        """Whether a file is there and holds this."""
        kept = self._kept.get(name)
        if kept is None or (kept.content, kept.rows) != (content, rows):
            return False
        path = self.path / name
        return path.is_file() and path.stat().st_size == kept.bytes

    def names(self) -> list[str]:
        """The files that are noted."""
        return sorted(self._kept)

    def keep(self, name: str, kept: Kept) -> None:
        """Note what a file holds."""
        self._kept[name] = kept
        if time.monotonic() - self._noted_at > NOTE_EVERY_S:
            self.note()

    def remove(self, name: str) -> None:
        """Remove a file that is noted, and its folder if nothing else is in it."""
        path = self.path / name
        path.unlink(missing_ok=True)
        del self._kept[name]
        if path.parent != self.path:
            with suppress(OSError):
                path.parent.rmdir()

    def note(self) -> None:
        """Write the note."""
        files = {name: asdict(kept) for name, kept in sorted(self._kept.items())}
        content = json.dumps({"options": self._options, "files": files}, indent=1)
        with _written(self._note, self._draft, "none", lambda draft: None) as sink:
            sink.write(content.encode())
        self._noted_at = time.monotonic()

    def take_over(self, *, overwrite: bool) -> None:
        """Go on with what an earlier export has left, or remove it where it was of other options.

        Raises:
            ExportError: it is of other options and is not to be overwritten, or is of no export.
        """
        self._draft.unlink(missing_ok=True)
        if not self._note.exists():
            if any(self.path.iterdir()):
                raise ExportError(
                    f"{self.path} holds files that no export has made: name another folder"
                )
            return
        options, self._kept = _read_note(self._note)
        self._remove_unnoted()
        differing = sorted(key for key, value in self._options.items() if options.get(key) != value)
        if differing and self._kept and not overwrite:
            raise ExportError(
                f"{self.path} was exported with other options ({', '.join(differing)}): name another folder,"
                " or replace all of it with --overwrite"
            )
        for name in self.names() if differing else ():
            self.remove(name)

    def written(
        self, name: str, compression: str, check: Callable[[Path], None]
    ) -> AbstractContextManager[BinaryIO]:
        """A sink for a file, which gets its name, at one stroke, once the block has ended well; else nothing is left.

        Args:
            name: in the folder.
            compression: one of `COMPRESSIONS`.
            check: looks at the finished file before it gets its name, and raises if it is not whole.

        Raises:
            ExportError: it cannot be written.
        """
        if self._kept.pop(name, None):
            self.note()  # else a kill right after would leave the new file noted as the old one
        return _written(self.path / name, self._draft, compression, check)

    def _remove_unnoted(self) -> None:
        """Remove files of ours that a kill kept from being noted: nobody knows with which options they were made."""
        file = f"{self.path.name}.*"
        for path in (*self.path.glob(file), *self.path.glob(f"*=*/{file}")):
            if str(path.relative_to(self.path)) not in self._kept:
                path.unlink()


def _read_note(path: Path) -> tuple[dict[str, Any], dict[str, Kept]]:
    try:
        note = json.loads(path.read_text())
        kept = {name: Kept(**each) for name, each in note["files"].items()}
        if not all(FILE.fullmatch(name) for name in kept):
            raise ValueError
        return dict(note["options"]), kept
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ExportError(
            f"{path} is damaged, or of a later version: remove the folder, or name another"
        ) from None


@contextmanager
def opened(path: Path, options: Mapping[str, Any], *, overwrite: bool) -> Iterator[Folder]:
    """Have the folder of a table to oneself for the length of the block; what is noted is written at its end.

    Args:
        path: absolute; made if it is not there.
        options: of the export, as plain JSON types.

    Raises:
        ExportError: it cannot be written, another export is at work in it, or what it holds is not of these options.
    """
    with naming(path):
        path.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        folder = Folder(path, options)
        with naming(path):
            _lock(held, path)
            folder.take_over(overwrite=overwrite)
        folder.note()  # before the first file: a folder without a note is of no export
        try:
            yield folder
        finally:
            folder.note()
    finally:
        os.close(held)


def _lock(folder: int, path: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ExportError(f"another export writes into {path}: wait for it to end") from None


@contextmanager
def _written(
    path: Path, draft: Path, compression: str, check: Callable[[Path], None]
) -> Iterator[BinaryIO]:
    """See `Folder.written`."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("wb") as file:
                with _compressed(file, compression) as sink:
                    yield sink
                file.flush()
                os.fsync(file.fileno())
            check(draft)
            draft.rename(path)
            _sync(path.parent)
        finally:
            draft.unlink(missing_ok=True)


def _compressed(file: BinaryIO, compression: str) -> Any:
    """A context manager with a sink that compresses into a file, which stays open."""
    if compression == "gz":
        return gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=6, mtime=0)
    if compression == "zst":
        return zstd.open(file, "wb")
    return nullcontext(file)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file or folder into one line.

    Raises:
        ExportError: something did.
    """
    try:
        yield
    except OSError as error:
        where = path if error.filename is None else error.filename
        raise ExportError(
            f"{where} cannot be written: {error.strerror or error}; make room, or name another folder"
        ) from error

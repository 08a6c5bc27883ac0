"""A backup as one file: ClickHouse's own backup, a tar, with a manifest behind it as the last member.

The manifest says what the file holds, and the SHA-256 of everything before itself. So a file that is cut off, or in
which a bit has changed, is known before anything is restored from it. ClickHouse reads the tar as it is. Nothing here asks
ClickHouse; `backup.py` and `restore.py` do.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

from embedded_clickhouse import landlock, sqltext
from embedded_clickhouse.forbidden import Limits
from embedded_clickhouse.protocol import ClickHouseError
from pipeline.errors import BackupError

MANIFEST = "polymarket-elt.json"
# Where ClickHouse lists the files of a backup.
LISTING = ".backup"
_PIECE_BYTES = 1 << 20
_DEFINING = ("CREATE", "ATTACH")


@dataclass(frozen=True)
class Facts:
    """What is known when ClickHouse has written a backup.

    Attributes:
        made_at: when it began, ISO, UTC, by ClickHouse's clock.
        chdb_core, engine: release of the engine that wrote it, and its version.
        database, raw_database: what it holds.
        raw_comment: comment of the landing database.
        fence: number of the writer lock under which it was written.
        migration: number of the last migration.
        settled_in_place: tables into which loads were settled that had not been replaced by others since.
    """

    made_at: str
    chdb_core: str
    engine: str
    database: str
    raw_database: str
    raw_comment: str
    fence: int
    migration: int
    settled_in_place: list[str]


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself.

    Attributes:
        facts: see there.
        rows: stored rows of all tables, older versions of rows included that are not merged away yet.
        size: bytes before the manifest.
        sha256: of these bytes, in hex.
    """

    facts: Facts
    rows: int
    size: int
    sha256: str


def seal(path: Path, facts: Facts) -> Manifest:
    """Append the manifest to a backup that ClickHouse has written, and bring the file to the disk.

    Raises:
        BackupError: the file is no whole tar, or cannot be written.
    """
    with _naming(path, "cannot be finished"), tarfile.open(path, "r:") as archive:
        rows = _rows(archive)
    with _naming(path, "cannot be finished"), tarfile.open(path, "a:") as archive:
        manifest = Manifest(facts, rows, archive.offset, _sha256(path, archive.offset))
        content = json.dumps(asdict(manifest), indent=1).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    with _naming(path, "cannot be finished"):
        _sync(path)
    return manifest


def publish(written: Path, final: Path) -> None:
    """Give a finished backup its name, at one stroke, unless something has that name already.

    Raises:
        BackupError: something has, or the file cannot be moved there; nothing has the final name then.
    """
    draft = final.with_name(f".{final.name}.partial")
    with _naming(final, "cannot be written"):
        try:
            if written.stat().st_dev != final.parent.stat().st_dev:
                shutil.copyfile(written, draft)
                draft.chmod(0o600)
                _sync(draft)
            else:
                written.rename(draft)
            _name_unless_taken(draft, final)
            _sync(final.parent)
        finally:
            draft.unlink(missing_ok=True)
            written.unlink(missing_ok=True)


def _name_unless_taken(draft: Path, final: Path) -> None:
    try:
        os.link(draft, final)
    except FileExistsError:
        raise BackupError(f"{final} exists already: name another file") from None
    except OSError:  # a file system without links
        if final.exists():
            raise BackupError(f"{final} exists already: name another file") from None
        draft.rename(final)


def check(
    path: Path, *, has_network: bool, canonical: Callable[[bytes], bytes] | None = None
) -> Manifest:
    """Read a backup as a whole and return its manifest.

    Args:
        has_network: whether definitions may name other servers, as those of the ClickHouse that restores it.
        canonical: has the engine write a definition anew, and raises BackupError for what is not one statement; with it,
            no lexer of ours is trusted.

    Raises:
        BackupError: it is none, is damaged, or has what the embedded ClickHouse does not allow.
    """
    with _naming(path, "cannot be read"), tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
        if not members or members[-1].name != MANIFEST:
            raise BackupError(f"{path} is not a whole backup: its manifest is missing")
        manifest = _parsed(path, _content(archive, MANIFEST))
        if members[-1].offset != manifest.size or _sha256(path, manifest.size) != manifest.sha256:
            raise BackupError(f"{path} is damaged: it is not what was written; use another backup")
        _refuse_ways_out(path, archive)
        limits = Limits(has_files=landlock.version() > 0, has_network=has_network)
        for name, member in _contents(archive):
            if name.endswith(".sql"):
                try:
                    _check_definition(limits, _content(archive, member), canonical)
                except (ClickHouseError, BackupError) as refusal:
                    raise BackupError(f"{path}: {name} is not allowed: {refusal}") from None
    return manifest


def _refuse_ways_out(path: Path, archive: tarfile.TarFile) -> None:
    """Refuse names that lead out of the folder to which they are restored, and members that are no files.

    Raises:
        BackupError: there is one.
    """
    names = {*archive.getnames(), *(name for pair in _contents(archive) for name in pair)}
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise BackupError(
                f"{path}: the entry {name!r} is not allowed: it leads out of the backup"
            )
    for member in archive.getmembers():
        if not (member.isfile() or member.isdir()):
            raise BackupError(f"{path}: the entry {member.name!r} is not allowed: it is no file")


def _check_definition(
    limits: Limits, text: bytes, canonical: Callable[[bytes], bytes] | None
) -> None:
    texts = [text] if canonical is None else [text, canonical(text)]
    for each in texts:
        limits.check(each)
        if sqltext.verb(each) not in _DEFINING:
            raise BackupError("it defines nothing")


def _parsed(path: Path, text: bytes) -> Manifest:
    try:
        fields = json.loads(text)
        facts = Facts(**fields.pop("facts"))
        return Manifest(facts, **fields)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BackupError(f"{path} is damaged, or of a later version of this project") from None


def _rows(archive: tarfile.TarFile) -> int:
    """Rows of all parts: each has a file that says how many; projections of a part are in folders of their own."""
    return sum(
        int(_content(archive, member))
        for name, member in _contents(archive)
        if name.endswith("/count.txt") and ".proj/" not in name
    )


def _contents(archive: tarfile.TarFile) -> Iterator[tuple[str, str]]:
    """Names of the files that were backed up, and of the members that hold them: equal files are one member.

    Raises:
        tarfile.TarError: two members have one name, or the list of files is missing.
    """
    names = archive.getnames()
    if len(set(names)) < len(names):
        raise tarfile.ReadError("two members have the same name")
    try:
        contents = ElementTree.fromstring(_content(archive, LISTING))
    except ElementTree.ParseError as error:
        raise tarfile.ReadError(f"{LISTING}: {error}") from None
    for each in contents.iter("file"):
        name = each.findtext("name", "")
        yield name, each.findtext("data_file", name)


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    """What a member holds.

    Raises:
        tarfile.TarError: there is no such file in the archive.
    """
    try:
        opened = archive.extractfile(name)
    except KeyError:
        opened = None
    if opened is None:
        raise tarfile.ReadError(f"{name} is missing")
    return opened.read()


def _sha256(path: Path, size: int) -> str:
    """That of the first bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size and (piece := file.read(min(size, _PIECE_BYTES))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def _naming(path: Path, what: str) -> Iterator[None]:
    """Turn what goes wrong with a file into one line."""
    try:
        yield
    except tarfile.TarError as error:
        raise BackupError(f"{path} is no backup, or is cut off: {error}") from error
    except OSError as error:
        raise BackupError(f"{path} {what}: {error.strerror or error}") from error

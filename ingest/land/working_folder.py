"""Mends what a kill leaves in dlt's working folder and dlt itself stumbles over, every time it is started again.

dlt moves packages by renaming folders, which is atomic, but two of its steps are a rename and a deletion, or a marker
and a rename: cut off in between they leave a contradiction that makes the next run fail, and every run after it. Call
`mend` before dlt is asked for anything; it deletes nothing that is not loaded or not repeated elsewhere. The layout
is dlt's (`dlt/common/storages`), and so are the names.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path

import dlt
from dlt.common.storages import LoadStorage, NormalizeStorage, PackageStorage

WRITERS = "writers"
_making = threading.Lock()


def of_writer(folder: Path, database: str, number: int, names: tuple[str, ...]) -> Path:
    """The folder in which the writer of this number keeps its pipelines, moved here from the writer before it.

    Each writer has its own, under a path that vanishes when the next one takes over: a writer that was paused, lost its
    lock and goes on finds its files gone, and can neither add a package to those of its successor nor move one away.
    The path `folder/<name>` is a link to it, for people and for dlt's command line.

    Args:
        folder: the folder of all of them, `DLT_PIPELINES_DIR`.
        database: landing database; each has its own writers.
        number: that of the writer lock.
        names: those of the pipelines.
    """
    own = folder.resolve() / WRITERS / f"{database}-{number}"
    with _making:  # threads of one writer ask at once, each for its first run
        if not own.is_dir():
            _make(own, database, number, names)
    return own


def _make(own: Path, database: str, number: int, names: tuple[str, ...]) -> None:
    own.parent.mkdir(parents=True, exist_ok=True)
    numbers = [
        int(path.name.rpartition("-")[2])
        for path in own.parent.glob(f"{database}-*")
        if path.name.rpartition("-")[2].isdigit()
    ]
    earlier = sorted(each for each in numbers if each < number)
    if earlier:
        own.with_name(f"{database}-{earlier.pop()}").rename(own)
    else:
        own.mkdir()
    for each in earlier:
        shutil.rmtree(own.with_name(f"{database}-{each}"), ignore_errors=True)
    for name in names:
        plain = own.parent.parent / name
        if plain.is_dir() and not plain.is_symlink() and not (own / name).exists():
            plain.rename(own / name)  # of a version that had no writers' folders
        with contextlib.suppress(OSError):  # a file system without links has none
            link = own.parent / f"{name}.link"
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(own / name, plain.parent))
            link.rename(plain)


def forget(folder: Path, database: str) -> None:
    """Remove what all writers of a landing database have kept, packages that are not loaded yet included.

    For a database that was put back to an earlier moment: such packages bring cursors of a later one.
    """
    writers = folder.resolve() / WRITERS
    for own in writers.glob(f"{database}-*"):
        if own.name.rpartition("-")[2].isdigit():
            given_up = _given_up(own)
            shutil.rmtree(given_up, ignore_errors=True)
            own.rename(given_up)
            shutil.rmtree(given_up)


def mend(pipeline: dlt.Pipeline) -> None:
    """Bring the working folder into a state from which dlt goes on."""
    folder = Path(pipeline.working_dir)
    shutil.rmtree(_given_up(folder), ignore_errors=True)
    normalized = folder / "load" / LoadStorage.NORMALIZED_FOLDER
    for package in _packages(folder / "normalize" / NormalizeStorage.EXTRACTED_FOLDER):
        # Normalized, but not deleted here: dlt would normalize it again and find its place taken. Without a schema:
        # nothing was in it, and it is deleted by half.
        if (normalized / package.name).exists() or not (package / "schema.json").exists():
            shutil.rmtree(package)
    for package in _packages(normalized):
        # Loaded, but not moved away: dlt refuses what says that it is completed. Completing it twice is harmless.
        (package / PackageStorage.PACKAGE_COMPLETED_FILE_NAME).unlink(missing_ok=True)
    # What was being written when the kill came; nobody will go on with it.
    for package in _packages(folder / "load" / LoadStorage.NEW_PACKAGES_FOLDER):
        shutil.rmtree(package)
    for unfinished in _packages(folder / "normalize"):
        if unfinished.name != NormalizeStorage.EXTRACTED_FOLDER:
            shutil.rmtree(unfinished)


def give_up(pipeline: dlt.Pipeline) -> None:
    """Remove the working folder at one stroke, and start with an empty one.

    dlt deletes it file by file: cut off, that could leave a pending package with its cursor and without its rows.
    """
    folder = Path(pipeline.working_dir)
    folder.rename(_given_up(folder))
    pipeline.drop()
    shutil.rmtree(_given_up(folder))


def make_room(pipeline: dlt.Pipeline) -> None:
    """Forget loaded packages of the same name as one that is to be loaded.

    dlt names packages by the clock, and archives one by a rename that fails for ever where its place is taken: after the
    clock was put back to that moment, or in processes that were forked from one whose clock was ahead.
    """
    load = Path(pipeline.working_dir) / "load"
    for package in _packages(load / LoadStorage.NORMALIZED_FOLDER):
        shutil.rmtree(load / LoadStorage.LOADED_FOLDER / package.name, ignore_errors=True)


def forget_old_packages(pipeline: dlt.Pipeline, kept: int) -> None:
    """Keep what `dlt pipeline … trace` needs, and not a folder for each of a loop's runs."""
    # Not by dlt's own listing, which fails over a package that is deleted by half.
    loaded = Path(pipeline.working_dir) / "load" / LoadStorage.LOADED_FOLDER
    for package in _packages(loaded)[:-kept]:
        shutil.rmtree(package)


def _packages(folder: Path) -> list[Path]:
    """Folders in a folder, oldest package first."""
    return sorted(path for path in folder.glob("*") if path.is_dir())


def _given_up(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.given_up")

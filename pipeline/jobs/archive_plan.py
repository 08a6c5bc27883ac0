"""Which files a `backfill --parquet` reads, in which slices, and which of them are done.

The embedded ClickHouse opens files in one folder alone (docs/security.md). A local file is linked into it for as long as the
run takes; nothing is copied, and no rule is changed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ingest.errors import ArchiveError
from ingest.sources.parquet.places import Keys, Place, has_wildcard, places_of
from pipeline.console import step
from pipeline.errors import LoadFailed, SettingsError
from pipeline.jobs.archive_files import LONGEST_S, Archive, File, look_at
from pipeline.settings import Settings
from pipeline.warehouse.archive_books import ArchiveBooks
from pipeline.warehouse.client import connect
from pipeline.warehouse.holder import is_alive
from pipeline.warehouse.identities import (
    WITH_PLACE,
    WITHOUT_PLACE,
    Identity,
    Span,
    any_stands,
    other_than,
    whole_days,
)
from pipeline.warehouse.run import Run

LINKS = "parquet-links"


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Attributes:
        patterns: paths, addresses or globs.
        again: read what is done already, too.
        replaces_days: V1 fills that stand under the other identity are moved over.
        is_little: numbers of 32 bytes have their lowest byte first.
    """

    patterns: Sequence[str]
    again: bool = False
    replaces_days: bool = False
    is_little: bool = False


@dataclass
class Plan:
    """What is to be read.

    Attributes:
        archive: how ClickHouse is asked.
        slices: (file, part) of all files that can be read.
        left: those that are not done.
        problems: why a file cannot be read, by its name.
    """

    archive: Archive
    slices: list[tuple[File, str]] = field(default_factory=list)
    left: list[tuple[File, str]] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of slices that earlier runs have read."""
        return len(self.slices) - len(self.left)

    def give_up(self, file: File, problem: str) -> None:
        """Note why a file cannot be read, and read nothing of it."""
        self.problems[file.name] = f"{file.name}: {problem}"
        self.slices = [each for each in self.slices if each[0].name != file.name]
        self.left = [each for each in self.left if each[0].name != file.name]


def allowing(settings: Settings, patterns: Sequence[str]) -> Settings:
    """Settings with which an embedded ClickHouse that is started for this run may read addresses of these kinds.

    Raises:
        SettingsError: a pattern makes no sense.
    """
    kinds = {place.kind.upper() for place in _places(patterns) if place.kind != "file"}
    given = [name for name in settings.clickhouse_local_sources.split(",") if name]
    return settings.model_copy(
        update={"clickhouse_local_sources": ",".join(dict.fromkeys([*given, *sorted(kinds)]))}
    )


@contextmanager
def make_plan(run: Run, request: Request) -> Iterator[Plan]:
    """Look at every file; the plan is good for the length of the block.

    Raises:
        SettingsError: a pattern makes no sense, or means files that ClickHouse cannot see.
        LoadFailed: no file can be read.
    """
    settings = run.settings
    keys = Keys(settings.parquet_s3_key_id, settings.parquet_s3_secret_key.get_secret_value())
    client = connect(run.server, LONGEST_S)
    try:
        archive = Archive(client, keys, request.is_little)
        plan = Plan(archive)
        with _reachable(run, _listed(archive, _places(request.patterns))) as places:
            _look_at_all(plan, places)
            books = ArchiveBooks(run.client, settings.raw_database, run.lock)
            done = books.done() if books.exist() and not request.again else set()
            plan.left = [
                (file, part)
                for file, part in plan.slices
                if (file.name, file.footer, part) not in done
            ]
            if not plan.slices:
                first = next(iter(plan.problems.values()))
                raise LoadFailed(
                    f"backfill: none of {len(plan.problems)} files can be read; first {first}"
                )
            yield plan
    finally:
        client.close()


def identity_of(file: File) -> Identity:
    """The identity that V1 fills of a file have."""
    return WITH_PLACE if file.mapped.layout.has_positions else WITHOUT_PLACE


@dataclass(frozen=True)
class V1File:
    """A file that brings V1 fills.

    Attributes:
        span: the whole days (UTC) of those fills.
    """

    name: str
    identity: Identity
    span: Span


def v1_files(run: Run, plan: Plan) -> list[V1File]:
    """The files that are to be read and whose V1 fills could stand twice, whichever way.

    A column or two of each is read for it. One that cannot be read becomes a problem, and is read no more.
    """
    raw = run.settings.raw_database
    files = {file.name: file for file, _ in plan.left if file.mapped.layout.shape != "v2"}
    here = {identity_of(file) for file in files.values()}
    at_risk = {
        identity
        for identity in here
        if len(here) > 1 or any_stands(run.client, raw, other_than(identity))
    }
    found: list[V1File] = []
    for name, file in files.items():
        identity = identity_of(file)
        if identity not in at_risk:
            continue
        try:
            _, _, first, last, fills, _ = plan.archive.query(
                file.place, file.reading(plan.archive).days()
            )[0]
        except ArchiveError as error:
            plan.give_up(file, str(error).removeprefix(f"{file.place.name}: "))
            continue
        if fills:
            found.append(V1File(name, identity, whole_days((first, last))))
    return found


def twice_in_request(files: Sequence[V1File]) -> tuple[V1File, V1File] | None:
    """Two files of different identities whose days overlap; None if there are none."""
    latest: dict[Identity, V1File] = {}
    for file in sorted(files, key=lambda each: each.span):
        other = latest.get(other_than(file.identity))
        if other and other.span[1] >= file.span[0]:
            return other, file
        before = latest.get(file.identity)
        if before is None or before.span[1] < file.span[1]:
            latest[file.identity] = file
    return None


def _look_at_all(plan: Plan, places: dict[str, Place]) -> None:
    """Read the footers; a file that cannot be read is a problem and no more."""
    with step("backfill: looking at files", total=len(places)) as shown:
        for number, (name, place) in enumerate(places.items(), start=1):
            try:
                file = look_at(plan.archive, name, place)
            except ArchiveError as error:
                plan.problems[name] = str(error)
            else:
                plan.slices += [(file, part) for part in file.conditions]
            shown.update(name, number)


def _places(patterns: Sequence[str]) -> list[Place]:
    try:
        return list(dict.fromkeys(place for pattern in patterns for place in places_of(pattern)))
    except ArchiveError as error:
        raise SettingsError(str(error)) from error


def _listed(archive: Archive, places: Sequence[Place]) -> list[Place]:
    """The same places, with those that S3 has to list replaced by what it lists."""
    found: list[Place] = []
    for place in places:
        if not has_wildcard(place):
            found.append(place)
            continue
        try:
            rows = archive.query(
                place,
                f"select distinct _path from {place.table('One', archive.keys)} order by _path",
            )
        except ArchiveError as error:
            raise LoadFailed(f"backfill: {error}") from error
        found += [Place("s3", f"s3://{path}") for (path,) in rows]
    return found


@contextmanager
def _reachable(run: Run, places: Sequence[Place]) -> Iterator[dict[str, Place]]:
    """Where ClickHouse finds each file, by the file's name; two addresses of one name are told apart by a number.

    Raises:
        SettingsError: it cannot see local files.
    """
    local = [place for place in places if place.kind == "file"]
    if local and not run.server.embedded:
        raise SettingsError(
            f"--parquet: {run.server} cannot see files of this machine ({local[0].name}): give an http(s):// or s3://"
            " address that it can reach, or use the embedded ClickHouse (CLICKHOUSE_HOST empty)"
        )
    folder = run.settings.clickhouse_local_files / LINKS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        if local:
            _sweep(folder.parent)
            folder.mkdir(mode=0o700, parents=True)
        found: dict[str, Place] = {}
        for place in places:
            name = place.name
            while name in found:
                name += "#"
            found[name] = _linked(place, folder, len(found)) if place.kind == "file" else place
        yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _linked(place: Place, folder: Path, number: int) -> Place:
    """The file under a name in the folder that the embedded ClickHouse may read."""
    link = folder / f"{number}.parquet"
    try:
        os.link(place.address, link)
    except OSError as error:
        raise SettingsError(
            f"--parquet: {place.address} cannot be linked into {folder.parent.parent} ({error.strerror}), where the"
            " embedded ClickHouse reads files: let CLICKHOUSE_LOCAL_FILES name a folder on the same disk, that is yours"
        ) from error
    return Place("file", "/".join(link.parts[-3:]))


def _sweep(folder: Path) -> None:
    """Remove the links of runs that were killed."""
    for left in folder.glob("*-*"):
        pid = left.name.partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)

"""Which files a pattern means, and how ClickHouse reaches each.

A pattern is a local path or glob, an http(s) URL, or s3://…; {a,b} and {1..9} are expanded here, in all three. What
ClickHouse is given is one address without any wildcard left: its own would read `{`, `*` and `|` in names, and `file:`
in a URL would reach files of its machine. The name of a place has no secret in it: neither the user nor the query of a URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from glob import has_magic
from itertools import islice
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from ingest.errors import ArchiveError
from ingest.sources.parquet.statements import literal

MOST_FILES = 100_000
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# What ClickHouse takes for wildcards, in an address that has none.
_WILD = re.compile(r"[{}|*\[\]\s]")


@dataclass(frozen=True)
class Keys:
    """Access to S3; empty: none, as for public buckets."""

    key_id: str = ""
    secret: str = ""


@dataclass(frozen=True)
class Place:
    """One file.

    Attributes:
        kind: `file`, `url` or `s3`.
        address: path, URL or s3:// address; may hold secrets.
    """

    kind: str
    address: str

    @property
    def name(self) -> str:
        """For people and for the books: without credentials."""
        if self.kind == "file":
            return self.address
        parts = urlsplit(self.address)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def base_name(self) -> str:
        """The last part of its path."""
        return unquote(self.name.rpartition("/")[2]) or self.name

    def table(self, file_format: str = "Parquet", keys: Keys | None = None) -> str:
        """The table function that reads it.

        Args:
            keys: access to S3.
        """
        address, form = literal(self.address), literal(file_format)
        if self.kind == "s3":
            given = (
                f"{literal(keys.key_id)}, {literal(keys.secret)}" if keys and keys.key_id else ""
            )
            return f"s3({address}, {given or 'NOSIGN'}, {form})"
        return f"{self.kind}({address}, {form})"

    def hidden(self, text: str, keys: Keys | None = None) -> str:
        """A text about it without its secrets: ClickHouse quotes addresses, and what it was told."""
        text = text.replace(self.address, self.name)
        parts = urlsplit(self.address) if self.kind != "file" else None
        secrets = [parts.query, parts.netloc.rpartition("@")[0]] if parts else []
        secrets += [keys.secret, keys.key_id] if keys else []
        for secret in filter(None, secrets):
            text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
        return text


def places_of(pattern: str) -> list[Place]:
    """The files that a pattern means, each once, in its order; of s3 wildcards those that ClickHouse has still to list.

    Raises:
        ArchiveError: the pattern makes no sense, or no local file matches.
    """
    scheme = urlsplit(pattern).scheme.lower() if "://" in pattern else ""
    if not scheme and pattern.lower().startswith("file:"):
        scheme = "file"
    if scheme not in ("", "http", "https", "s3"):
        raise ArchiveError(
            f"--parquet: {scheme}: is no way to an archive; give a path, an http(s):// address or s3://…"
        )
    addresses = list(islice(_expanded(pattern), MOST_FILES + 1))
    if len(addresses) > MOST_FILES:
        raise ArchiveError(
            f"--parquet: these are more than {MOST_FILES} files; give a narrower pattern"
        )
    if not scheme:
        places = [Place("file", path) for address in addresses for path in _matching(address)]
        if not places:
            raise ArchiveError(f"--parquet: no file matches {pattern}")
    else:
        places = [_remote(scheme, address) for address in addresses]
    return list(dict.fromkeys(places))


def has_wildcard(place: Place) -> bool:
    """Whether it is a pattern that S3 has to list."""
    return place.kind == "s3" and "*" in place.address


def _expanded(pattern: str) -> Iterator[str]:
    """The pattern with every {a,b} and {1..9} replaced by each of its values, in order."""
    group = _GROUP.search(pattern)
    if group is None:
        yield pattern
        return
    head, tail = pattern[: group.start()], pattern[group.end() :]
    for value in _values(group[1]):
        for rest in _expanded(tail):
            yield head + value + rest


def _values(inside: str) -> Iterator[str]:
    bounds = _RANGE.fullmatch(inside)
    if bounds is None:
        yield from inside.split(",")
        return
    first, last = int(bounds[1]), int(bounds[2])
    width = len(bounds[1]) if bounds[1].startswith("0") else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield str(number).zfill(width)


def _matching(pattern: str) -> list[str]:
    path = Path(pattern).expanduser().absolute()
    if not has_magic(str(path)):
        return [str(path.resolve())] if path.is_file() else []
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    return [str(each.resolve()) for each in found if each.is_file()]


def _remote(scheme: str, address: str) -> Place:
    kind = "s3" if scheme == "s3" else "url"
    place = Place(kind, scheme + address[len(scheme) :])
    if not urlsplit(address).netloc.rpartition("@")[2]:
        raise ArchiveError(f"--parquet: {place.name} names no host")
    if kind == "s3" and "?" in address:
        raise ArchiveError(
            f"--parquet: {place.name} goes on with '?', which ClickHouse takes for any character: write * or {{a,b}}"
            " instead, so that the files are listed"
        )
    wild = _WILD.search(address.replace("*", "") if kind == "s3" else address)
    if wild:
        raise ArchiveError(
            f"--parquet: {place.name} holds {wild[0]!r}: a web server cannot be asked which files match,"
            " so write them as {a,b} or {1..9}, and %XX for such a character in a name"
        )
    return place

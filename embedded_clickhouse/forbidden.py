"""Statements that are refused before the engine sees them, where its grants do not reach.

Four kinds: what a server never does over HTTP (files of the client: INTO OUTFILE, FROM INFILE),
databases and dictionaries whose definition names a file, a program or another server, BACKUP and
RESTORE outside of their folders (see `backups`), and, where the kernel cannot confine the process,
the function `file`. The check goes by tokens, so a word in a
string or a comment is none. What it lets pass is still under the engine's grants and, on Linux, the
kernel's rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from embedded_clickhouse.backups import Folders
from embedded_clickhouse.lexer import Token, tokens
from embedded_clickhouse.protocol import ClickHouseError, Code, refusal

_DATABASE_ENGINES = frozenset({"ATOMIC", "LAZY", "MEMORY", "ORDINARY", "REPLICATED"})
# Tables of them would connect when they are read; the grants look at them only then, or not at all.
_NETWORK_ENGINES = frozenset(
    {
        *("AZUREBLOBSTORAGE", "AZUREQUEUE", "COSN", "GCS", "HDFS", "HUDI", "JDBC", "KAFKA"),
        *("MATERIALIZEDPOSTGRESQL", "MONGODB", "MYSQL", "NATS", "ODBC", "OSS", "POSTGRESQL"),
        *("RABBITMQ", "REDIS", "S3", "S3QUEUE", "URL", "YTSAURUS"),
    }
)
_DICTIONARY_SOURCES = frozenset({"CLICKHOUSE", "NULL"})
_OF_ANOTHER_SERVER = frozenset({"HOST", "PORT", "SECURE"})
_DEFINES = frozenset({"CREATE", "ATTACH", "REPLACE"})
# Without one of these bytes in it, a text has no token that is looked for. Only an escape can hide the name `file`.
_SUSPECT = re.compile(
    rb"OUTFILE|INFILE|BACKUP|RESTORE|CREATE|ATTACH|REPLACE|file|\\", re.IGNORECASE
)
_NOWHERE = Folders(Path("/nowhere"), Path("/nowhere"))


@dataclass(frozen=True)
class Limits:
    """What statements may reach for.

    Attributes:
        has_files: files, in the folder that the kernel keeps them to.
        has_network: other servers.
        backups: where BACKUP writes and RESTORE reads; None: neither is available.
    """

    has_files: bool
    has_network: bool
    backups: Folders | None = None

    def of_reader(self) -> Limits:
        """Those of the read-only user, who gets no files."""
        return replace(self, has_files=False)

    def check(self, text: bytes) -> None:
        """Refuse a statement that reaches for what the front does not give.

        Args:
            text: the statement; of an INSERT that is fed from a stream, without its data.

        Raises:
            ClickHouseError: it is refused; the message says why.
        """
        if _SUSPECT.search(text) is None:
            return
        found = list(tokens(text))
        _check_client_files(found)
        if not (self.backups or _NOWHERE).allow(found):
            raise _refused("BACKUP and RESTORE are not available but for the verbs of these names")
        for statement in _side_by_side(found):
            words = {_word(token) for token in statement}
            if _DEFINES & words:
                if not self.has_network:
                    _check_engines(statement, is_database=_is_of_a_database(statement))
                if "DICTIONARY" in words:
                    _check_dictionary(statement, self.has_network)
        if not self.has_files and any(token.name == b"file" for token in found):
            raise _refused("The name `file` is kept for a function that is not available")


def _is_of_a_database(found: Sequence[Token]) -> bool:
    """Whether the statement is CREATE [OR REPLACE] DATABASE and the like; a column may have that name too."""
    return any(_word(token) == "DATABASE" for token in found[:5])


def _check_client_files(found: Sequence[Token]) -> None:
    for before, token in pairwise(found):
        pair = _word(before), _word(token)
        if pair == ("INTO", "OUTFILE"):
            raise refusal(Code.INTO_OUTFILE_NOT_ALLOWED, "INTO OUTFILE is not allowed")
        if pair == ("FROM", "INFILE"):
            raise refusal(
                Code.NOT_IMPLEMENTED, "FROM INFILE is for clients that read files: send the data"
            )


def _side_by_side(found: Sequence[Token]) -> list[list[Token]]:
    """The statements that PARALLEL WITH joins."""
    statements: list[list[Token]] = [[]]
    for token in found:
        statements[-1].append(token)
        if [_word(each) for each in statements[-1][-2:]] == ["PARALLEL", "WITH"]:
            statements.append([])
    return statements


def _check_engines(found: Sequence[Token], is_database: bool) -> None:
    """Look at what follows each word ENGINE: a column may have that name, and come first."""
    for at, token in enumerate(found):
        if token.name.upper() != b"ENGINE":
            continue
        rest = [each.name for each in found[at + 1 : at + 3] if each.text != b"="]
        name = rest[0].decode("utf-8", "replace") if rest else ""
        if name and (
            name.upper() not in _DATABASE_ENGINES
            if is_database
            else name.upper() in _NETWORK_ENGINES
        ):
            raise _refused(f"Engine {name} is not available")


def _check_dictionary(found: Sequence[Token], has_network: bool) -> None:
    for at, token in enumerate(found):
        if token.name.upper() != b"SOURCE" or at + 2 >= len(found) or found[at + 1].text != b"(":
            continue
        kind = found[at + 2].name.decode("utf-8", "replace").upper()
        inside = {
            each.name.upper().decode("utf-8", "replace")
            for each in found[at + 3 :]
            if each.depth > token.depth
        }
        is_here = kind in _DICTIONARY_SOURCES and not inside & _OF_ANOTHER_SERVER
        is_elsewhere = has_network and kind not in (
            "EXECUTABLE",
            "EXECUTABLE_POOL",
            "FILE",
            "LIBRARY",
        )
        if not (is_here or is_elsewhere):
            raise _refused(
                f"Dictionaries from {kind.lower()} are not available, but from tables of this ClickHouse"
            )


def _word(token: Token) -> str:
    return token.text.upper().decode("utf-8", "replace") if token.kind == "word" else ""


def _refused(message: str) -> ClickHouseError:
    return refusal(
        Code.ACCESS_DENIED, f"{message} in the embedded ClickHouse; see docs/security.md"
    )

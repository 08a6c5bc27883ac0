"""BACKUP and RESTORE in the embedded ClickHouse: one shape of either, each in one folder.

BACKUP writes into `tmp/backup` of the data folder, where the engine may write anyway. RESTORE reads
`backups`, where the kernel lets the engine write nothing: a backup holds the definitions of tables,
which no check of a statement sees, so SQL must not be able to make one up. The verb `backup` moves
a finished backup from the one to the other, outside of the engine (`pipeline/jobs/backup.py`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from embedded_clickhouse.lexer import Token

_FILE_NAME = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.tar'")
_OBJECTS = frozenset({b"TABLE", b"DATABASE", b"DICTIONARY", b"VIEW", b"TEMPORARY", b"ALL"})
_DIRECTIONS = {b"BACKUP": b"TO", b"RESTORE": b"FROM"}


@dataclass(frozen=True)
class Folders:
    """Where the backups of a data folder are.

    Attributes:
        written: BACKUP writes here.
        kept: RESTORE reads here.
    """

    written: Path
    kept: Path

    @classmethod
    def of(cls, path: Path) -> "Folders":
        """Those of the data folder `path`."""
        whole = path.resolve()
        return cls(whole / "tmp" / "backup", whole / "backups")

    def allow(self, statement: Sequence[Token]) -> bool:
        """Whether a statement is no BACKUP or RESTORE, or is one that stays in its folder.

        The latter is BACKUP … TO File('<written>/<name>.tar') or RESTORE … FROM File('<kept>/<name>.tar'), and ends there.
        """
        words = [token.text.upper() if token.kind == "word" else b"" for token in statement]
        starts = [at for at, word in enumerate(words) if _is_a_start(words, at, word)]
        if not starts:
            return True
        verb = words[starts[0]]
        folder = self.written if verb == b"BACKUP" else self.kept
        literal = statement[-2].text if len(statement) > 5 else b""
        head = f"'{_escaped(folder)}/".encode()
        return (
            starts == [0]
            and words[-5:-3] == [_DIRECTIONS[verb], b"FILE"]
            and (statement[-3].text, statement[-1].text) == (b"(", b")")
            and literal.startswith(head)
            and _FILE_NAME.fullmatch(literal, len(head)) is not None
        )


def file(path: Path) -> str:
    """The `File('…')` of a statement for a file in one of the folders."""
    return f"File('{_escaped(path)}')"


def _is_a_start(words: Sequence[bytes], at: int, word: bytes) -> bool:
    """Whether a BACKUP or RESTORE begins here: alone, beside others by PARALLEL WITH, or inside of another statement.

    An INSERT may carry such words as data.
    """
    if word not in _DIRECTIONS:
        return False
    if at == 0 or list(words[max(at - 2, 0) : at]) == [b"PARALLEL", b"WITH"]:
        return True
    return words[0] != b"INSERT" and at + 1 < len(words) and words[at + 1] in _OBJECTS


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace("'", "\\'")

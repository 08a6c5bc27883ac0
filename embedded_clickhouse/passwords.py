"""Passwords of the embedded ClickHouse: made at its first start, kept in files that only their owner reads.

One file for each user, `<data folder>/<user>.password`. Whoever may read the file may connect.
"""

import contextlib
import os
import secrets
from pathlib import Path

OWNER, READER = "default", "dashboard"
_BYTES = 24


def password_file(path: Path, user: str) -> Path:
    """Where the password of a user of the data folder `path` is kept."""
    return path / f"{user}.password"


def password_of(path: Path, user: str) -> str:
    """The password of a user, made now if there is none.

    Raises:
        OSError: it can be neither read nor written.
    """
    file = password_file(path, user)
    with contextlib.suppress(FileNotFoundError):
        if kept := file.read_text().strip():
            return kept
    # Written whole under another name first, so that of two that make one at once both get the same.
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secrets.token_urlsafe(_BYTES) + "\n")
    try:
        if file.exists() and not file.read_text().strip():
            file.unlink()
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink()
    return file.read_text().strip()

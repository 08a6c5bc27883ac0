"""dlt's working folder of a writer: sources that ask for it side by side get the same one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ingest.land.working_folder import of_writer

SOURCES = ("polygon", "goldsky", "gamma", "clob")


def test_threads_that_ask_at_once_get_the_folder_that_was_kept(tmp_path: Path) -> None:
    """Each source asks for itself when its first run begins, and all of them begin together."""
    kept = of_writer(tmp_path, "db", 1, SOURCES) / "polygon" / "package"
    kept.mkdir(parents=True)
    with ThreadPoolExecutor(len(SOURCES)) as pool:
        for number in range(2, 60):
            together = threading.Barrier(len(SOURCES))

            def ask(_: int, number: int = number, together: threading.Barrier = together) -> Path:
                together.wait()
                return of_writer(tmp_path, "db", number, SOURCES)

            [own] = set(pool.map(ask, range(len(SOURCES))))
            assert (own / "polygon" / "package").is_dir()
            assert (tmp_path / "polygon").resolve() == own / "polygon"

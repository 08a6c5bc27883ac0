"""What `make audit` makes of pip-audit's answers: a flaw fails, and no answer is never taken for a good one."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from pipeline.settings import PROJECT_DIR

AUDIT = runpy.run_path(str(PROJECT_DIR / ".ci" / "audit.py"))
# As pip-audit 2.10.1 writes them.
GOOD = {"name": "click", "version": "8.5.1", "vulns": []}
FLAWED = {
    "name": "urllib3",
    "version": "1.26.0",
    "vulns": [
        {"id": "PYSEC-2021-108", "fix_versions": ["1.26.5"], "aliases": [], "description": ""}
    ],
}
SKIPPED = {"name": "click", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("dependencies", "code", "first"),
    [
        ([GOOD], 0, "1 of 1 packages audited, 0 advisories"),
        ([GOOD, SKIPPED], 0, "1 of 2 packages audited, 0 advisories"),
        ([GOOD, FLAWED], 1, "urllib3 1.26.0: PYSEC-2021-108, fixed in 1.26.5"),
        ([SKIPPED], 2, ""),
        ([], 2, ""),
    ],
)
def test_only_what_was_looked_at_counts(
    dependencies: list[dict[str, Any]], code: int, first: str
) -> None:
    found, lines = AUDIT["verdict"]({"dependencies": dependencies, "fixes": []})
    assert (found, (lines or [""])[0]) == (code, first)


def test_ci_audits_the_pins() -> None:
    assert "make audit" in (PROJECT_DIR / ".ci" / "run").read_text()
    assert "audit.py" in (PROJECT_DIR / "Makefile").read_text()

"""`make audit`: holds the pinned packages (constraints.txt) against published security advisories, with pip-audit.

Exit 1 if one of them is known to be vulnerable. Where no advisory service can be reached (a package mirror alone has no
advisories) it says so and exits 0, because that says nothing about the packages; pip-audit itself would then report
"no known vulnerabilities" after looking at none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TOOL = "pip-audit==2.10.1"
SERVICES = ("pypi", "osv")
TIMEOUT_S = 300


def verdict(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit code and lines for one report of pip-audit; 2 if it looked at no package."""
    dependencies = report["dependencies"]
    audited = [each for each in dependencies if "vulns" in each]
    if not audited:
        return 2, []
    lines = [
        f"{each['name']} {each['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no release'}"
        for each in audited
        for flaw in each["vulns"]
    ]
    found = 1 if lines else 0
    counts = f"{len(audited)} of {len(dependencies)} packages audited"
    lines.append(f"{counts}, {len(lines)} advisories")
    return found, lines


def ask(tool: Path, service: str) -> dict[str, Any] | None:
    """The report of pip-audit by one advisory service; None if there is none to be had."""
    command = [tool, "--requirement", PROJECT / "constraints.txt", "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    try:
        return json.loads(answer.stdout)
    except json.JSONDecodeError:
        return None


def install(folder: Path) -> Path | None:
    """pip-audit in an environment of its own, which keeps its dependencies out of ours; None if it cannot be had."""
    tool = folder / "bin" / "pip-audit"
    if not tool.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", TOOL]
        if subprocess.run(pip, capture_output=True).returncode:
            return None
    return tool


def main() -> int:
    """Audit, print what was found, and return the exit code."""
    tool = install(PROJECT / ".venv" / "audit")
    if tool is None:
        print(f"NOT AUDITED: {TOOL} cannot be installed here")
        return 0
    for service in SERVICES:
        report = ask(tool, service)
        code, lines = verdict(report) if report else (2, [])
        if code != 2:
            print("\n".join(lines))
            return code
    print(
        "NOT AUDITED: no advisory service can be reached from here; run `make audit` where one can"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

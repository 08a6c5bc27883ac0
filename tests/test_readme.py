"""The README says what is: every setting with its default, every verb, every table, every path."""

from __future__ import annotations

import re

import pytest

from pipeline.settings import PROJECT_DIR, Settings
from pipeline.verbs.cli import cli

README = (PROJECT_DIR / "README.md").read_text()
SETTINGS = (PROJECT_DIR / "docs/settings.md").read_text()


def documented_settings() -> dict[str, str]:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) \| (.+) \|$", SETTINGS, re.MULTILINE)
    return {name: default.strip("`") for name, default, _ in rows}


def test_every_setting_stands_in_its_table() -> None:
    assert sorted(documented_settings()) == sorted(name.upper() for name in Settings.model_fields)


def test_settings_of_the_readme_are_told_as_in_the_table() -> None:
    section = README.split("## Settings")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `[A-Z0-9_]+` .*$", section, re.MULTILINE)
    assert rows and all(row in SETTINGS for row in rows)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_defaults_in_the_table_are_the_defaults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = documented_settings()[name.upper()]
    for each in Settings.model_fields:
        monkeypatch.delenv(each.upper(), raising=False)
    default = getattr(Settings(_env_file=None), name)
    if not written:
        assert default is None or str(default) == ""
        return
    monkeypatch.setenv(name.upper(), written)
    assert getattr(Settings(_env_file=None), name) == default


def test_every_verb_is_shown() -> None:
    for name, verb in cli.commands.items():
        assert verb.hidden or f"run_pipeline.py {name}" in README or f"make {name}" in README, name


def test_paths_in_the_layout_exist() -> None:
    layout = README.split("## Layout")[1].split("\n## ")[0]
    paths = re.findall(r"^\| `([^`]+)`", layout, re.MULTILINE)
    assert len(paths) >= 8
    assert [path for path in paths if not (PROJECT_DIR / path).exists()] == []


def test_links_lead_somewhere() -> None:
    for document in (PROJECT_DIR / "README.md", *(PROJECT_DIR / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!http)([^)#]+)", document.read_text())
        assert [link for link in links if not (document.parent / link).exists()] == []


def test_tables_of_the_readme_are_models() -> None:
    section = README.split("## What you get")[1].split("\n## ")[0]
    names = re.findall(
        r"`([a-z0-9_]+)`", "\n".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    )
    models = {path.stem for path in (PROJECT_DIR / "dbt_project/models").rglob("*.sql")}
    assert set(names) - {"polymarket"} <= models
    assert len(names) >= 12

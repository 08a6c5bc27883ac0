"""Settings that have no effect are named: misspelt ones, a settings file that is not read, a password not in force."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.settings import ENV_FILE_VARIABLE, PROJECT_DIR, Settings, load_settings
from pipeline.verbs.advice import advice, near_miss

KNOWN = {name.upper() for name in Settings.model_fields}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(ENV_FILE_VARIABLE, str(tmp_path / "settings.env"))


def warnings() -> list[str]:
    return list(advice(load_settings()))


@pytest.mark.parametrize("name", sorted(name for name in KNOWN if "_" in name))
def test_a_letter_or_an_underscore_too_few_is_a_near_miss_of_every_setting(name: str) -> None:
    assert near_miss(name[:-1], KNOWN - {name[:-1]} | {name}) == name
    assert near_miss(name.replace("_", "", 1) + "_", KNOWN) == name
    assert near_miss(name, KNOWN) == near_miss(name.lower(), KNOWN) == ""


@pytest.mark.parametrize(
    "name",
    ["PATH", "HTTPS_PROXY", "HTTP_PROXY", "SSH_AUTH_SOCK", "LOG_LEVEL", "DBT_LOG_PATH", "RESOURCES",
     "CLICKHOUSE_MEMORY_LIMIT", "DASHBOARD_PASSWORD", "CRON_SCHEDULE", "POLYMARKET_ELT_FENCE"],
)  # fmt: skip
def test_names_of_others_are_left_alone(name: str) -> None:
    assert near_miss(name, KNOWN) == ""


def test_a_misspelt_setting_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the environment and in the settings file."""
    assert warnings() == []
    monkeypatch.setenv("POLYGON_RPCURL", "https://secret.example.com")
    (tmp_path / "settings.env").write_text("POLL_INTERVALS=secret\nSOMETHING_ELSE=1\n")
    first, second = warnings()
    assert first.startswith("POLL_INTERVALS ") and "POLL_INTERVAL_S meant" in first
    assert second.startswith("POLYGON_RPCURL ") and "POLYGON_RPC_URL meant" in second
    assert "secret" not in first + second


def test_a_settings_file_of_another_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(ENV_FILE_VARIABLE, str(PROJECT_DIR / "no.env"))
    monkeypatch.chdir(tmp_path)
    assert warnings() == []
    (tmp_path / ".env").write_text("")
    [warning] = warnings()
    assert warning.startswith(f"{tmp_path / '.env'} is not read")


def test_a_password_that_is_not_in_force_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "secret")
    assert warnings() == []
    monkeypatch.setenv("CLICKHOUSE_LOCAL_NO_PASSWORD", "true")
    [warning] = warnings()
    assert warning.startswith("CLICKHOUSE_PASSWORD is not in force") and "secret" not in warning
    monkeypatch.setenv("CLICKHOUSE_HOST", "clickhouse.example.com")
    assert warnings() == []

"""Settings: every value that makes no sense is one line that names its variable, and secrets stay out of it."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from worlds import PATIENCE_S

from ingest.setting_types import parse_utc
from ingest.sources.goldsky.settings import ARCHIVE_END
from pipeline.errors import SettingsError
from pipeline.settings import ENV_FILE_VARIABLE, PROJECT_DIR, Settings, env_file, load_settings
from pipeline.verbs.cli import cli

SECRET = "hunter2secret"
BAD_VALUES = [
    ("CLICKHOUSE_PORT", "http", "valid integer"),
    ("CLICKHOUSE_PORT", "65536", "65535"),
    ("CLICKHOUSE_SECURE", "maybe", "valid boolean"),
    ("CLICKHOUSE_DATABASE", "poly-market", "should match pattern"),
    ("CLICKHOUSE_DATABASE", "x; drop database y", "should match pattern"),
    ("CLICKHOUSE_DATABASE", "p`; drop database q; --", "should match pattern"),
    ("CLICKHOUSE_DATABASE", "p.q", "should match pattern"),
    ("CLICKHOUSE_DATABASE", "p\n", "should match pattern"),
    ("CLICKHOUSE_DATABASE", "ｐolymarket", "should match pattern"),
    ("CLICKHOUSE_DATABASE", "system", "a name of your own"),
    ("CLICKHOUSE_CLUSTER", "main' sync", "should match pattern"),
    ("CLICKHOUSE_CLUSTER", "main\\", "should match pattern"),
    ("CLICKHOUSE_CLUSTER", "{cluster}'", "should match pattern"),
    ("CLICKHOUSE_LOCAL_PORT", "-1", "greater than or equal to 0"),
    ("CLICKHOUSE_LOCAL_MEMORY_GB", "0", "greater than 0"),
    ("POLYMARKET_GAMMA_URL", "gamma-api.polymarket.com", "starts with https://"),
    ("GOLDSKY_URL", "ftp://example.com", "starts with https://"),
    ("POLYGON_RPC_URL", "https://", "starts with https://"),
    ("POLYGON_RPC_URL", "http://[::1/rpc", "starts with https://"),
    ("POLYMARKET_DATA_URL", "data-api.polymarket.com", "starts with https://"),
    ("GAMMA_MAX_LAG_S", "0", "greater than 0"),
    ("POLYGON_MAX_LAG_S", "soon", "valid number"),
    ("DEAD_LETTERS_MAX", "-1", "greater than or equal to 0"),
    ("SOURCES", "gamma,binance", "should match pattern"),
    ("CYCLE_BUDGET_S", "inf", "finite"),
    ("POLL_INTERVAL_S", "-1", "greater than 0"),
    ("FILLS_LOOKBACK_S", "1.5", "valid integer"),
    ("GOLDSKY_START", "yesterday", "date or time like"),
    ("GOLDSKY_HORIZON", "2026-13-01", "date or time like"),
    ("GOLDSKY_PAGE_SIZE", "1001", "less than or equal to 1000"),
    ("POLYGON_VERSIONS", "v1", "should match pattern"),
    ("POLYGON_VERSIONS", "v3", "should match pattern"),
    ("POLYGON_VERSIONS", "v1,v3", "should match pattern"),
    ("POLYGON_VERSIONS", "v3,v2", "should match pattern"),
    ("LOCK_TTL_S", "1", "greater than or equal to 5"),
    ("LOG_JSON", "2", "valid boolean"),
]


NO_HOSTS = [
    "https://ch.example.com", "http://ch.example.com:8123/", "ch.example.com:8443", "ch.example.com/",
    f"https://user:{SECRET}@ch.example.com", f"user:{SECRET}@ch.example.com", "two words",
]  # fmt: skip


@pytest.mark.parametrize("host", NO_HOSTS)
def test_a_host_that_is_an_address_is_refused_with_what_to_write(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", host)
    with pytest.raises(
        SettingsError, match="CLICKHOUSE_PORT, https is CLICKHOUSE_SECURE=true"
    ) as e:
        load_settings()
    assert SECRET not in str(e.value)


@pytest.mark.parametrize(
    "host", ["localhost", "10.0.0.1", "my_ch-1.example.com", "::1", "[fe80::1]"]
)
def test_a_host_is_taken(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", host)
    assert load_settings().clickhouse_host == host


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env file but those of the test."""
    monkeypatch.setenv(ENV_FILE_VARIABLE, str(tmp_path / ".env"))
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "value", "told"), BAD_VALUES)
def test_a_bad_value_is_one_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as failure:
        load_settings()
    message = str(failure.value)
    assert message.startswith(f"{name}: ")
    assert told in message
    assert message.endswith("; see .env.example")
    assert "\n" not in message


@pytest.mark.parametrize("verb", ["once", "loop", "status", "doctor", "clickhouse", "sandbox"])
def test_a_bad_value_ends_every_verb_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("LOCK_TTL_S", "soon")
    answer = CliRunner().invoke(cli, [verb])
    assert answer.exit_code == 2
    assert answer.stdout == ""


def test_a_user_sees_the_line_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_PORT", "http")
    program = str(PROJECT_DIR / "run_pipeline.py")
    answer = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert answer.returncode == 2
    assert answer.stderr == (
        "CLICKHOUSE_PORT: Input should be a valid integer, unable to parse string as an integer,"
        " not 'http'; see .env.example\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLYGON_RPC_URL", f"polygon.example.com/v2/{SECRET}"),
        ("GOLDSKY_URL", f"https://user:{SECRET} @example.com"),
        ("POLYMARKET_GAMMA_URL", f"//{SECRET}@example.com"),
    ],
)
def test_no_message_repeats_a_value_that_may_hold_a_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", SECRET)
    with pytest.raises(SettingsError) as failure:
        load_settings()
    assert SECRET not in str(failure.value)
    with pytest.raises(SettingsError) as failure:
        load_settings(**{name.lower(): "https://example.com", "clickhouse_password": [SECRET]})
    assert str(failure.value).startswith("CLICKHOUSE_PASSWORD: ")
    assert SECRET not in str(failure.value)


def test_a_password_is_not_shown_with_the_settings() -> None:
    settings = load_settings(clickhouse_password=SECRET)
    assert settings.clickhouse_password.get_secret_value() == SECRET
    assert SECRET not in repr(settings)


def test_a_dotenv_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(
        "CLICKHOUSE_HOST=clickhouse.example.com\nclickhouse_port=8443\nSOMETHING_ELSE=1\nSOURCES=\n"
    )
    monkeypatch.setenv("CLICKHOUSE_PORT", "9443")
    settings = load_settings()
    assert (settings.clickhouse_host, settings.clickhouse_port) == ("clickhouse.example.com", 9443)
    assert settings.sources == "gamma,goldsky,polygon,prices"
    assert not settings.embedded


def test_a_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD_FILE", str(secret))
    assert load_settings().clickhouse_password.get_secret_value() == "s3cret"
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "another")
    with pytest.raises(SettingsError, match="CLICKHOUSE_PASSWORD is set too") as refusal:
        load_settings()
    assert "s3cret" not in str(refusal.value)
    monkeypatch.delenv("CLICKHOUSE_PASSWORD")
    monkeypatch.setenv("CLICKHOUSE_PASSWORD_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"CLICKHOUSE_PASSWORD_FILE: .* cannot be read"):
        load_settings()


def test_only_secrets_are_read_from_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workers = tmp_path / "workers"
    workers.write_text("7")
    monkeypatch.setenv("BACKFILL_WORKERS_FILE", str(workers))
    assert load_settings().backfill_workers == Settings.model_fields["backfill_workers"].default


def test_a_dotenv_file_that_is_no_text_is_one_line() -> None:
    Path(".env").write_bytes(b"CLICKHOUSE_HOST=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env cannot be read: .* UTF-8 text$"):
        load_settings()


def test_the_settings_file_is_that_of_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not of the folder from which a run is started, where another would be read."""
    (tmp_path / ".env").write_text("CLICKHOUSE_HOST=elsewhere.example.com\n")
    monkeypatch.delenv(ENV_FILE_VARIABLE)
    assert env_file() == PROJECT_DIR / ".env"
    monkeypatch.setenv(ENV_FILE_VARIABLE, "")
    assert env_file() is None
    assert load_settings().embedded


def test_every_relative_path_is_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever folder a run is started from: defaults, given ones, and the demo's."""
    paths = [name for name, field in Settings.model_fields.items() if "Path" in str(field)]
    assert len(paths) >= 4
    for settings in (load_settings(), load_settings(demo=True)):
        for name in paths:
            value = getattr(settings, name)
            assert value is None or value.is_relative_to(PROJECT_DIR), name
    for name in paths:
        monkeypatch.setenv(name.upper(), "elsewhere/x")
        assert getattr(load_settings(), name) == PROJECT_DIR / "elsewhere/x"
        monkeypatch.setenv(name.upper(), "~/x")
        assert getattr(load_settings(), name) == Path.home() / "x"
        monkeypatch.setenv(name.upper(), "/var/x")
        assert getattr(load_settings(), name) == Path("/var/x")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-04-28", datetime(2026, 4, 28, tzinfo=UTC)),
        ("2026-04-28T11:00:40", datetime(2026, 4, 28, 11, 0, 40, tzinfo=UTC)),
        ("2026-04-28T11:00:40Z", datetime(2026, 4, 28, 11, 0, 40, tzinfo=UTC)),
        ("2026-04-28T13:00:40+02:00", datetime(2026, 4, 28, 11, 0, 40, tzinfo=UTC)),
        ("", None),
    ],
)
def test_times_without_a_zone_are_utc(
    monkeypatch: pytest.MonkeyPatch, text: str, moment: datetime | None
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    monkeypatch.setenv("GOLDSKY_START", text)
    assert load_settings().goldsky_start == parse_utc(text) == moment


def test_defaults_make_sense() -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.raw_database == "polymarket_raw"
    assert settings.goldsky_horizon == ARCHIVE_END
    assert settings.goldsky_start is None
    assert settings.clickhouse_local_memory_bytes == 4_000_000_000
    for name, field in Settings.model_fields.items():
        assert field.description, name


@pytest.mark.parametrize("versions", ["v2", "v2,v3", "v1,v2", "v1,v2,v3"])
def test_a_user_chooses_the_generations_read_from_the_chain(
    versions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().polygon_versions == "v2,v3"
    monkeypatch.setenv("POLYGON_VERSIONS", versions)
    assert load_settings().polygon_versions == versions


def test_v1_is_read_from_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_VERSIONS", "v1,v2")
    assert load_settings().polygon_versions == "v1,v2"
    monkeypatch.setenv("GOLDSKY_START", "2026-04-01")
    with pytest.raises(SettingsError, match="would count each fill twice"):
        load_settings()


def test_the_demo_keeps_to_itself_and_moves_with_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_HOST", "production.example.com")
    monkeypatch.setenv("CLICKHOUSE_LOCAL_PORT", "19000")
    settings = load_settings(demo=True)
    assert settings.clickhouse_host == ""
    assert settings.clickhouse_local_port == 19001
    assert settings.clickhouse_local_path != load_settings().clickhouse_local_path

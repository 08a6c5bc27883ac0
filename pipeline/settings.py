"""Settings of a run: environment variables, or the `.env` file of the project's folder.

A relative path means the project's folder too, so that a run from any folder works on the same data.

One class names every setting with its default, unit and meaning; the table of docs/settings.md is checked against it.
Field names are the environment variables in lower case. The module is longer than 300 lines because of that one list.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from ingest.setting_types import OptionalHttpUrl, listed
from ingest.sources import SOURCES
from ingest.sources.base import Source
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from embedded_clickhouse import Access

PROJECT_DIR = Path(__file__).resolve().parent.parent
# A process's own settings file; empty: none.
ENV_FILE_VARIABLE = "POLYMARKET_ENV_FILE"
IDENTIFIER = r"^[a-z_][a-z0-9_]{0,59}$"
ORIGIN = r"https?://[^\s/,]+"
# ClickHouse's own; `default` of the embedded one has an engine on which the models cannot be built.
RESERVED_DATABASES = ("default", "system", "information_schema")
# Empty turns these off; of every other setting, empty is the default.
MAY_BE_EMPTY = {"sqd_portal_url"}
# Their values may hold a password or a key, so no message repeats them.
SECRETS = ("password", "url", "clickhouse_host", "secret_key")

# What the demo loads stays apart from real data, whatever is set; its embedded server takes the port after the other's.
DEMO_DIR = PROJECT_DIR / "data/demo"
DEMO_SETTINGS = {
    "clickhouse_host": "",
    "clickhouse_password": "",
    "clickhouse_cluster": "",
    "clickhouse_database": "polymarket",
    "clickhouse_local_path": DEMO_DIR / "clickhouse",
    "clickhouse_local_files": DEMO_DIR / "files",
    "dlt_pipelines_dir": DEMO_DIR / "dlt",
}


def _not_reserved(name: str) -> str:
    if name in RESERVED_DATABASES:
        raise ValueError(f"Input should be a name of your own, {name} is ClickHouse's")
    return name


def _host_name(host: str) -> str:
    if not re.fullmatch(r"[\w.-]*|\[?[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?", host):
        raise ValueError(
            "Input should be a host name alone, like abc.clickhouse.cloud: the port goes into"
            " CLICKHOUSE_PORT, https is CLICKHOUSE_SECURE=true"
        )
    return host


def _anchored(path: Path) -> Path:
    """The path that is meant: `~` is the user's home, and a relative one is of the project's folder."""
    try:
        return PROJECT_DIR / path.expanduser()
    except RuntimeError:
        raise ValueError("Input should be a path, and ~ has no meaning here") from None


HostName = Annotated[str, AfterValidator(_host_name)]
DatabaseName = Annotated[str, AfterValidator(_not_reserved)]
AnchoredPath = Annotated[Path, AfterValidator(_anchored)]


_NAMES = "|".join(source.name for source in SOURCES)
_SECTIONS = tuple(source.settings for source in SOURCES)


class Settings(*_SECTIONS):  # type: ignore[misc]
    """Every setting: those below, and those of each source. Durations are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(extra="ignore", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_the_default(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take an empty variable for one that is not set, but where empty says something."""
        return {
            name: value for name, value in values.items() if value != "" or name in MAY_BE_EMPTY
        }

    # ClickHouse
    clickhouse_host: HostName = Field(
        "", description="Server to use; empty: the embedded ClickHouse"
    )
    clickhouse_port: int = Field(
        8123, ge=1, le=65535, description="HTTP port of that server (8443 with TLS)"
    )
    clickhouse_user: str = Field("default", description="User of that server")
    clickhouse_password: SecretStr = Field(
        SecretStr(""),
        description="Password; the embedded one makes its own where this is empty",
    )
    clickhouse_secure: bool = Field(False, description="TLS (ClickHouse Cloud: true)")
    clickhouse_database: DatabaseName = Field(
        "polymarket",
        pattern=IDENTIFIER,
        description="Database of the models; raw data go to `<name>_raw`",
    )
    clickhouse_cluster: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_.-]*|\{[a-z_]+\})$",
        description="Cluster for ON CLUSTER DDL and Replicated engines",
    )
    clickhouse_local_path: AnchoredPath = Field(
        Path("data/clickhouse"), description="Folder of the embedded one"
    )
    clickhouse_local_port: int = Field(
        18123, ge=0, le=65535, description="Loopback port of the embedded one; 0: any free one"
    )
    clickhouse_local_memory_gb: float = Field(
        4.0, gt=0, description="Memory cap of the embedded one, GB"
    )
    clickhouse_local_files: AnchoredPath = Field(
        Path("data/files"),
        description="The one folder of which SQL of the embedded one may use files",
    )
    clickhouse_local_sources: str = Field(
        "",
        pattern=r"^\w*(,\w+)*$",
        description="What else SQL of the embedded one may reach, by comma: URL, S3, REMOTE, …; empty: nothing",
    )
    clickhouse_local_origins: str = Field(
        "",
        pattern=rf"^({ORIGIN}(,{ORIGIN})*)?$",
        description="Web pages that may ask the embedded one, by comma, as https://name:port",
    )
    clickhouse_local_no_password: bool = Field(
        False,
        description="true: the embedded one asks for no password, so every user of this machine may use it",
    )

    # Upstreams

    polymarket_data_url: OptionalHttpUrl = Field(
        "", description="Data API with which `verify` compares totals; empty: it does not"
    )

    # What a cycle reads
    sources: str = Field(
        ",".join(sorted(source.name for source in SOURCES)),
        pattern=rf"^({_NAMES})(,({_NAMES}))*$",
        description="Which sources a cycle reads, by comma",
    )
    cycle_budget_s: float = Field(
        60, gt=0, description="Longest time one source may read in one cycle"
    )
    poll_interval_s: float = Field(
        10, gt=0, description="Pause between cycles of `loop` with nothing to catch up on"
    )

    backfill_workers: int = Field(
        4, ge=1, le=64, description="Slices of a backfill that are read at the same time"
    )
    backfill_slice_s: int = Field(
        3600, ge=1, description="Length of the slices into which a backfill is cut"
    )
    backfill_package_rows: int = Field(
        250_000, ge=1, description="Fills that a backfill loads and settles at once"
    )

    parquet_s3_key_id: str = Field(
        "",
        description="Access key id for s3:// archives; empty: without a key, as public ones allow",
    )
    parquet_s3_secret_key: SecretStr = Field(
        SecretStr(""), description="Secret key that belongs to it"
    )

    http_timeout_s: float = Field(60, gt=0, description="Longest wait for one answer")
    http_give_up_s: float = Field(
        120, ge=0, description="Longest time that one request's retries may wait in total"
    )

    # What counts as trouble
    dead_letters_max: int = Field(
        1000,
        ge=0,
        description="Records of one source that cannot be parsed in one cycle; more fail it (the rest is kept)",
    )

    # Upkeep
    dlt_pipelines_dir: AnchoredPath = Field(
        Path("data/dlt"), description="dlt working folder; keep it on a volume"
    )
    lock_ttl_s: float = Field(
        120, ge=5, description="A writer silent for this long has lost the lock"
    )
    settle_max_rows: int = Field(1_000_000, ge=1, description="Most rows that are settled at once")
    log_json: bool = Field(False, description="Log lines as JSON")
    log_file: AnchoredPath | None = Field(
        None,
        description="File for the log lines too, rotated at 20 MB, five old ones kept; empty: none",
    )

    @property
    def embedded(self) -> bool:
        """True if the embedded ClickHouse is used."""
        return not self.clickhouse_host

    @property
    def active_sources(self) -> list[Source]:
        """Sources of a cycle, in the order of THE list, where they have what they need."""
        wanted = self.sources.split(",")
        return [
            source
            for source in SOURCES
            if source.name in wanted
            and all(getattr(self, name) is not None for name in source.needs)
        ]

    @property
    def raw_database(self) -> str:
        """Name of the landing database."""
        return f"{self.clickhouse_database}_raw"

    @property
    def clickhouse_local_memory_bytes(self) -> int:
        """Memory cap of the embedded one, bytes."""
        return int(self.clickhouse_local_memory_gb * 1e9)

    @property
    def clickhouse_local_access(self) -> Access:
        """Who may do what in the embedded one."""
        from embedded_clickhouse import Access  # loads a web server, which few verbs need

        password = self.clickhouse_password.get_secret_value() or None
        return Access(
            "" if self.clickhouse_local_no_password else password,
            self.clickhouse_local_files,
            listed(self.clickhouse_local_sources),
            listed(self.clickhouse_local_origins),
        )


def env_file() -> Path | None:
    """The settings file of this process: `.env` of the project's folder, unless POLYMARKET_ENV_FILE names another."""
    named = os.environ.get(ENV_FILE_VARIABLE, ".env")
    return PROJECT_DIR / named if named else None


def may_be_in_a_file(name: str) -> bool:
    """Whether `<NAME>_FILE` may name a file with the value of a setting: those that may hold a password or a key."""
    return name.lower().endswith(SECRETS)


def _from_files() -> dict[str, str]:
    """Settings whose value is in a file, as Docker and Kubernetes give secrets: `<NAME>_FILE` names the file.

    Raises:
        SettingsError: the file cannot be read, or `<NAME>` is set too.
    """
    file = env_file()
    given = {**(dotenv_values(file) if file else {}), **os.environ}
    found = {}
    for name in filter(may_be_in_a_file, Settings.model_fields):
        variable = f"{name.upper()}_FILE"
        path = given.get(variable)
        if not path:
            continue
        if given.get(name.upper()):
            raise SettingsError(f"{variable}: {name.upper()} is set too; unset one of them")
        try:
            found[name] = _anchored(Path(path)).read_text().strip()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise SettingsError(f"{variable}: {path} cannot be read: {error}") from error
    return found


def load_settings(*, demo: bool = False, **overrides: object) -> Settings:
    """Read the settings from the environment and `.env`; with `demo`, those of the demo's own data.

    Raises:
        SettingsError: one line naming the first variable that makes no sense.
    """
    try:
        given = {"_env_file": env_file(), **_from_files()} | (DEMO_SETTINGS if demo else {})
        given |= overrides
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        secret = name.endswith(SECRETS)
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if secret else f", not {first['input']!r}"
        raise SettingsError(f"{name.upper()}: {message}{shown}; see .env.example") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{env_file()} cannot be read: {error}; it should be UTF-8 text"
        ) from error
    if settings.goldsky_start is not None and "v1" in settings.polygon_versions:
        raise SettingsError(
            "POLYGON_VERSIONS: v1 comes from the archive when GOLDSKY_START is set, and reading it from the"
            " chain too would count each fill twice; unset one of them"
        )
    if demo:
        settings = settings.model_copy(
            update={"clickhouse_local_port": settings.clickhouse_local_port + 1}
        )
    return settings

"""Compose file, image, settings example and pins agree with the code; nothing here needs Docker.

There is no Docker engine where this is developed, so the compose file is read as YAML and its
promises are checked one by one; what a running container does is not covered.
"""

import re
import tomllib
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from croniter import croniter
from dotenv import dotenv_values
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools import find_packages

from pipeline.settings import Settings
from pipeline.verbs.cli import cli

PROJECT = Path(__file__).resolve().parent.parent
COMPOSE_ONLY = {
    *("CLICKHOUSE_MEMORY_LIMIT", "CLICKHOUSE_PUBLISHED_PORT", "PIPELINE_MEMORY_LIMIT"),
    *("CRON_SCHEDULE", "DASHBOARD_PASSWORD"),
}
FIELDS = {name.upper() for name in Settings.model_fields}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<word>[^}]*))?\}")
EXAMPLE_LINE = re.compile(r"^# (?P<line>(?P<name>[A-Z][A-Z0-9_]+)=.*)$", re.MULTILINE)


def read(name: str) -> str:
    return (PROJECT / name).read_text()


def interpolate(text: str, **environment: str) -> str:
    """Fill in the `${NAME}`, `${NAME:-default}` and `${NAME:?message}` of a compose file."""

    def value(match: re.Match[str]) -> str:
        if environment.get(match["name"]):
            return environment[match["name"]]
        if match["kind"] != "-":
            raise LookupError(match["word"] or match["name"])
        return match["word"]

    return VARIABLE.sub(value, text)


def pins() -> dict[str, Version]:
    lines = [line.partition("==") for line in read("constraints.txt").split()]
    return {canonicalize_name(name): Version(version) for name, _, version in lines}


COMPOSE: dict[str, Any] = yaml.safe_load(
    interpolate(
        read("docker-compose.yml"), CLICKHOUSE_PASSWORD="secret", DASHBOARD_PASSWORD="other"
    )
)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PIPELINES = ("pipeline", "pipeline-cron")
PYPROJECT = tomllib.loads(read("pyproject.toml"))
DOCKERFILE = read("Dockerfile")


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing is set."""
    for name in FIELDS:
        monkeypatch.delenv(name, raising=False)


# ---------- docker-compose.yml


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_restarts_stops_cleanly_and_rotates_its_logs(service: str) -> None:
    properties = SERVICES[service]
    assert properties["restart"] == "unless-stopped"
    assert int(properties["stop_grace_period"].removesuffix("s")) >= 30
    assert set(properties["logging"]["options"]) == {"max-size", "max-file"}


def test_clickhouse_is_pinned_to_the_release_line_of_the_embedded_engine() -> None:
    name, _, tag = SERVICES["clickhouse"]["image"].partition(":")
    assert name == "clickhouse/clickhouse-server"
    assert re.fullmatch(r"\d+(\.\d+){3}", tag)
    assert Version(tag).release[:2] == pins()["chdb-core"].release[:2]


def test_clickhouse_is_checked_bounded_kept_and_not_public() -> None:
    clickhouse = SERVICES["clickhouse"]
    assert clickhouse["healthcheck"]["test"][-1] == "http://127.0.0.1:8123/ping"
    assert clickhouse["mem_limit"] == "4g"
    assert clickhouse["ulimits"]["nofile"]["soft"] >= 262144
    assert named_volume_of(clickhouse, "/var/lib/clickhouse")
    assert clickhouse["ports"] == ["127.0.0.1:8123:8123"]


def named_volume_of(service: dict[str, Any], folder: str) -> str:
    """Name of the declared volume that is mounted at `folder`."""
    mounted = {
        target: source for source, _, target in (v.partition(":") for v in service["volumes"])
    }
    assert mounted[folder] in COMPOSE["volumes"], f"{folder} is not on a named volume"
    return mounted[folder]


@pytest.mark.parametrize("name", PIPELINES)
def test_the_pipeline_finds_clickhouse_and_keeps_its_state(
    name: str, no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SERVICES[name]
    assert service["depends_on"]["clickhouse"]["condition"] == "service_healthy"
    assert service["env_file"] == [{"path": ".env", "required": False}]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)
    server = SERVICES["clickhouse"]["environment"]
    assert (settings.clickhouse_host, settings.clickhouse_port) == ("clickhouse", 8123)
    assert settings.clickhouse_user == server["CLICKHOUSE_USER"]
    assert settings.clickhouse_password.get_secret_value() == server["CLICKHOUSE_PASSWORD"]
    named_volume_of(service, str(settings.dlt_pipelines_dir))
    named_volume_of(service, "/app/dbt_project/target")


def test_another_clickhouse_can_be_used_and_its_port_is_not_the_published_one() -> None:
    cloud = {
        "CLICKHOUSE_HOST": "x.clickhouse.cloud",
        "CLICKHOUSE_PORT": "8443",
        "CLICKHOUSE_SECURE": "true",
    }
    text = interpolate(
        read("docker-compose.yml"), CLICKHOUSE_PASSWORD="a", DASHBOARD_PASSWORD="b", **cloud
    )
    services = yaml.safe_load(text)["services"]
    for name in PIPELINES:
        given = services[name]["environment"]
        assert {each: str(given[each]).lower() for each in cloud} == cloud
        assert services[name]["mem_limit"] == "2g"
    assert services["clickhouse"]["ports"] == ["127.0.0.1:8123:8123"]


def test_one_variant_runs_unless_the_other_is_asked_for() -> None:
    assert "profiles" not in SERVICES["pipeline"]
    assert SERVICES["pipeline"]["command"] == ["loop"]
    assert SERVICES["pipeline-cron"]["profiles"] == ["cron"]
    verb, expression = SERVICES["pipeline-cron"]["command"]
    assert verb == "cron"
    assert croniter.is_valid(expression)
    assert {"loop", "cron"} <= set(cli.commands)


@pytest.mark.parametrize("name", PIPELINES)
def test_containers_do_not_share_a_host_name(name: str) -> None:
    """The writer lock takes a holder with its own host and pid for a run that died here."""
    assert not {"hostname", "network_mode", "pid"} & set(SERVICES[name])


@pytest.mark.parametrize("name", ["CLICKHOUSE_PASSWORD", "DASHBOARD_PASSWORD"])
def test_without_a_password_nothing_starts(name: str) -> None:
    others = {"CLICKHOUSE_PASSWORD": "a", "DASHBOARD_PASSWORD": "b"} | {name: ""}
    with pytest.raises(LookupError, match=rf"set {name} in \.env"):
        interpolate(read("docker-compose.yml"), **others)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_health_of_a_pipeline_is_asked_of_a_verb(name: str) -> None:
    command, *program, verb, option = SERVICES[name]["healthcheck"]["test"]
    assert (command, program) == ("CMD", ["python", "run_pipeline.py"])
    assert option in {each for param in cli.commands[verb].params for each in param.opts}


def test_the_user_of_dashboards_can_only_read_within_bounds() -> None:
    mounted = [volume.split(":") for volume in SERVICES["clickhouse"]["volumes"]]
    [(source, mode)] = [(source, mode) for source, target, *mode in mounted if "users.d" in target]
    assert mode == ["ro"]
    config = ElementTree.fromstring(read(source))
    user = config.find("users/dashboard")
    variable = user.find("password").get("from_env")
    assert SERVICES["clickhouse"]["environment"][variable] == "other"
    profile = config.find(f"profiles/{user.findtext('profile')}")
    assert profile.findtext("readonly") == "1"
    for bound in ("max_memory_usage", "max_execution_time", "max_result_rows"):
        assert int(profile.findtext(bound)) > 0
    assert config.find(f"quotas/{user.findtext('quota')}/interval") is not None
    database = Settings.model_fields["clickhouse_database"].default
    grants = {grant.text for grant in user.findall("grants/query")}
    assert grants == {f"GRANT SELECT ON {name}.*" for name in (database, f"{database}_raw")}


def test_compose_asks_for_known_variables_with_the_defaults_of_the_settings(
    no_settings: None,
) -> None:
    asked = list(VARIABLE.finditer(read("docker-compose.yml")))
    assert {match["name"] for match in asked} <= FIELDS | COMPOSE_ONLY
    for match in asked:
        is_here = match["name"] == "CLICKHOUSE_HOST"  # the service, not the embedded one
        if match["name"] in FIELDS and match["kind"] == "-" and not is_here:
            assert_default(match["name"], match["word"])


# ---------- settings elsewhere


def assert_default(variable: str, text: str) -> None:
    """Fail unless `text` is read as what the setting is when nothing is set."""
    name, untouched = variable.lower(), Settings(_env_file=None)
    given = Settings(_env_file=None, **{name: text})
    assert getattr(given, name) == getattr(untouched, name), variable


def test_env_example_shows_every_setting_with_its_default(
    no_settings: None, tmp_path: Path
) -> None:
    example = tmp_path / ".env"
    example.write_text("\n".join(m["line"] for m in EXAMPLE_LINE.finditer(read(".env.example"))))
    shown = dotenv_values(example)
    assert set(shown) == FIELDS | COMPOSE_ONLY
    assert Settings(_env_file=example) == Settings(_env_file=None)
    # An empty value is ignored, so it would hide a default that is not empty.
    blank = {name for name, value in shown.items() if not value} - COMPOSE_ONLY
    assert blank == {name for name in FIELDS if is_blank(Settings.model_fields[name.lower()])}
    assert shown["CRON_SCHEDULE"] in SERVICES["pipeline-cron"]["command"]
    assert shown["CLICKHOUSE_MEMORY_LIMIT"] == SERVICES["clickhouse"]["mem_limit"]
    assert shown["PIPELINE_MEMORY_LIMIT"] == SERVICES["pipeline"]["mem_limit"]
    assert f":{shown['CLICKHOUSE_PUBLISHED_PORT']}:" in SERVICES["clickhouse"]["ports"][0]


def is_blank(field: Any) -> bool:
    """True if the default of a setting is nothing."""
    secret = getattr(field.default, "get_secret_value", None)
    return (secret() if secret else field.default) in ("", None)


def test_env_example_sets_nothing_and_explains_every_line() -> None:
    lines = read(".env.example").splitlines()
    assert all(line == "" or line.startswith("# ") for line in lines)
    for above, line in pairwise(lines):
        if EXAMPLE_LINE.match(line):
            assert above.startswith("# ") and not EXAMPLE_LINE.match(above), line


def test_profiles_read_settings_and_have_their_defaults(no_settings: None) -> None:
    used = re.findall(r"env_var\('(\w+)', '([^']*)'\)", read("profiles.yml"))
    assert len(used) == read("profiles.yml").count("env_var("), "env_var without a default"
    of_developers = {"CLICKHOUSE_DEV_DATABASE", "USER"}  # the target `dev`, which only dbt knows
    assert {name for name, _ in used} - of_developers <= FIELDS
    for name, default in used:
        if name not in of_developers:
            assert_default(name, default)


# ---------- versions


def test_constraints_are_plain_pins() -> None:
    for line in read("constraints.txt").splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)


def test_every_dependency_is_pinned_within_its_range() -> None:
    project = PYPROJECT["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    for requirement in map(Requirement, wanted):
        pin = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} but {pin} is pinned"


@pytest.mark.parametrize(("package", "limit"), [("dbt-core", "1.12"), ("sqlglot", "30.22")])
def test_releases_that_do_not_work_are_excluded(package: str, limit: str) -> None:
    requirement = next(
        requirement
        for requirement in map(Requirement, PYPROJECT["project"]["dependencies"])
        if requirement.name == package
    )
    assert not requirement.specifier.contains(limit)
    assert pins()[package] < Version(limit)


def test_every_package_of_the_project_is_installed() -> None:
    inits = [init for top in PROJECT.glob("*/__init__.py") for init in top.parent.rglob(top.name)]
    packages = {".".join(init.parent.relative_to(PROJECT).parts) for init in inits}
    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    assert packages - {"tests"} == set(find_packages(str(PROJECT), include=find["include"]))


# ---------- image


def instructions(name: str) -> list[str]:
    """Arguments of every instruction of that name in the Dockerfile, in order."""
    logical = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", logical, re.MULTILINE)


def test_base_image_is_pinned_to_a_python_that_the_project_takes() -> None:
    (base,) = instructions("FROM")
    minor = re.fullmatch(r"python:(\d+\.\d+)-slim-[a-z]+", base)[1]
    assert f">={minor}" == PYPROJECT["project"]["requires-python"]


def test_image_is_the_version_of_the_project() -> None:
    for name in PIPELINES:
        assert SERVICES[name]["image"].split(":") == [
            "polymarket-elt",
            PYPROJECT["project"]["version"],
        ]


def test_image_runs_a_verb_as_a_user_that_owns_what_it_writes_to() -> None:
    (user,) = instructions("USER")
    assert user not in ("0", "root")
    assert f"--uid {user}" in DOCKERFILE
    assert instructions("ENTRYPOINT") == ['["python", "run_pipeline.py"]']
    (command,) = instructions("CMD")
    assert yaml.safe_load(command)[0] in cli.commands
    owned = re.search(r"chown -R \S+ (.*)$", DOCKERFILE, re.MULTILINE)[1].split()
    for name in PIPELINES:
        for volume in SERVICES[name]["volumes"]:
            folder = volume.partition(":")[2].removeprefix("/app/")
            assert any(folder == each or folder.startswith(f"{each}/") for each in owned), folder


def test_image_holds_the_project_but_no_secret_and_no_data() -> None:
    ignored = [line.rstrip("/") for line in read(".dockerignore").splitlines() if line[:1] != "#"]

    def is_left_out(name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in ignored)

    assert all(map(is_left_out, (".env", ".env.local", "data", ".git", ".venv")))
    find = PYPROJECT["tool"]["setuptools"]["packages"]["find"]
    packages = {pattern.rstrip("*") for pattern in find["include"]}
    needed = packages | {"dbt_project", "schema", ".dlt", "profiles.yml", "run_pipeline.py"}
    assert not [name for name in needed if is_left_out(name)]
    assert all((PROJECT / name).exists() for name in needed)


# ---------- pre-commit


def test_hooks_run_pinned_tools_of_the_environment() -> None:
    (repository,) = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        tool = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert tool.startswith(".venv/bin/")
        assert canonicalize_name(Path(tool).name) in pins()


def test_the_sql_hook_sees_what_make_lint_sees() -> None:
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    pattern = next(hook["files"] for hook in hooks if hook["id"] == "sqlfluff-lint")
    (linted,) = re.findall(r"sqlfluff lint .*?((?: [a-z_/]+)+)$", read("Makefile"), re.MULTILINE)
    files = {path for folder in linted.split() for path in (PROJECT / folder).rglob("*.sql")}
    seen = {
        path
        for folder in ("dbt_project", "schema")
        for path in (PROJECT / folder).rglob("*.sql")
        if re.search(pattern, str(path.relative_to(PROJECT)))
    }
    assert files and seen == files


# ---------- documents


def test_contributing_names_what_exists() -> None:
    text = read("CONTRIBUTING.md")
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    paths = re.findall(r"`([^`]+)`", " ".join(table))
    assert paths
    assert not [path for path in paths if not (PROJECT / path).exists()]
    targets = set(re.findall(r"\bmake ([a-z]+)", text))
    assert targets <= set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


def test_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## \[([^]]+)\]", read("CHANGELOG.md"), re.MULTILINE)[1]
    assert newest in ("Unreleased", PYPROJECT["project"]["version"])

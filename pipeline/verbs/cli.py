"""The command line: a thin click app over `pipeline/`. Every verb reads the settings, does one call and prints the answer.

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 another run holds the writer lock, 130 and 143 stopped by a signal.
"""

from __future__ import annotations

import sys
import tomllib

import click

from pipeline.settings import PROJECT_DIR
from pipeline.signals import Stopped, stop_on_signals
from pipeline.verbs import derive, keep, load, look, simulate

DEMO_VERBS = (
    "sql",
    "status",
    "clickhouse",
    "dbt",
    "rebuild",
    "verify",
    "backup",
    "restore",
    "export",
)


def _print_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        project = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"]
        click.echo(f"{project['name']} {project['version']}")
        context.exit()


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--demo", "use_demo", is_flag=True, help="Use what `demo` loaded instead of the real data."
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def cli(context: click.Context, use_demo: bool) -> None:
    """Load Polymarket into ClickHouse and derive trades and candles there.

    Without a command: one cycle. Settings are environment variables or a .env file; see .env.example.
    """
    if use_demo and context.invoked_subcommand not in DEMO_VERBS:
        raise click.UsageError(
            f"--demo goes with {', '.join(DEMO_VERBS)}: real data must not mix with the demo's"
        )
    context.obj = use_demo
    if context.invoked_subcommand is None:
        context.invoke(load.once, only=(), skip=())


for group in (load, derive, keep, look, simulate):
    for command in group.COMMANDS:
        cli.add_command(command)


def main() -> None:
    """Entry point of `run_pipeline.py`."""
    try:
        stop_on_signals()
        cli(prog_name="run_pipeline.py")
    except Stopped as stop:  # before a verb could take care of it
        sys.exit(stop.exit_code)

"""What is there and how it is: queries, status, checks, and a ClickHouse to look into."""

from __future__ import annotations

import json
import sys

import click

from pipeline.errors import SourcesStale, Unhealthy, UsageError
from pipeline.verbs.frame import verb
from pipeline.warehouse.client import why_not_started


@click.command()
@click.argument("query", required=False)
@click.pass_context
def sql(context: click.Context, query: str | None) -> None:
    """Run a QUERY (or standard input) and print what ClickHouse returns, tab-separated unless it names a FORMAT."""
    from pipeline.verbs.query import run_query
    from pipeline.warehouse.run import open_run

    text = query if query is not None else sys.stdin.read()
    if not text.strip():
        raise click.UsageError("there is no query: give one, or pipe one in")
    with verb(context) as settings, open_run(settings) as run:
        if sys.stdout is None:
            raise UsageError("standard output is closed, so there is nowhere to print the answer")
        database = settings.clickhouse_database
        known = database if run.has_database(database) else "default"
        run_query(run.server, known, text, sys.stdout.buffer)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a source is stale.")
@click.option(
    "--health",
    is_flag=True,
    help="Exit with 1 if nothing runs, or a job fails again and again or is stuck; for health checks.",
)
@click.pass_context
def status(context: click.Context, as_json: bool, strict: bool, health: bool) -> None:
    """Show what is loaded, how fresh it is, who is writing and what needs attention."""
    from pipeline.verbs.report import print_status
    from pipeline.verbs.status import read_status
    from pipeline.warehouse.run import open_run

    with verb(context) as settings, open_run(settings) as run:
        answer = read_status(run)
        if as_json:
            click.echo(json.dumps(answer.to_json(), indent=2))
        else:
            print_status(answer)
        if health and answer.unhealthy:
            raise Unhealthy("; ".join(answer.unhealthy))
        if strict and answer.stale:
            raise SourcesStale(f"stale: {', '.join(answer.stale)}")


@click.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Check the settings, ClickHouse, the folders and every upstream; say what to do about each failure."""
    from pipeline.verbs.doctor import examine
    from pipeline.verbs.report import print_findings

    with verb(context) as settings:
        findings = examine(settings)
        print_findings(findings)
        if any(finding.failed for finding in findings):
            sys.exit(1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.pass_context
def clickhouse(context: click.Context, host: str) -> None:
    """Keep the embedded ClickHouse up for dbt, BI tools and notebooks, until stopped."""
    from embedded_clickhouse import EmbeddedError, serve
    from pipeline.errors import ClickHouseUnavailable
    from pipeline.verbs.report import how_to_connect

    with verb(context) as settings:
        try:
            users = how_to_connect(
                settings
            )  # once it serves, this process cannot read the passwords
            serve(
                settings.clickhouse_local_path,
                port=settings.clickhouse_local_port,
                host=host,
                access=settings.clickhouse_local_access,
                max_memory=settings.clickhouse_local_memory_bytes,
                on_ready=lambda host, port: click.echo(
                    f"ClickHouse {settings.clickhouse_local_path} is up at http://{host}:{port}/ until Ctrl-C\n{users}"
                ),
            )
        except EmbeddedError as error:
            port = settings.clickhouse_local_port
            raise ClickHouseUnavailable(why_not_started(error, port)) from error


COMMANDS = (sql, status, doctor, clickhouse)

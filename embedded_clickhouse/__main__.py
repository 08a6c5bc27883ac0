"""`python -m embedded_clickhouse`: one server process. Settings are arguments; the password, which
others could read there, comes from EMBEDDED_CLICKHOUSE_PASSWORD (unset: the one in the data folder)."""

import os
import sys
from pathlib import Path

import click

from embedded_clickhouse.connections import PATIENCE_S
from embedded_clickhouse.launcher import PASSWORD_VARIABLE
from embedded_clickhouse.ownership import EmbeddedError
from embedded_clickhouse.server import DEFAULT_PORT, Access, serve


@click.command()
@click.option("--path", type=click.Path(path_type=Path), required=True, help="Data folder.")
@click.option("--port", default=DEFAULT_PORT, show_default=True, help="TCP port; 0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--user", default="default", show_default=True, help="Name of the owner.")
@click.option("--files", type=click.Path(path_type=Path), help="Folder that SQL may use files of.")
@click.option("--source", multiple=True, help="What else SQL may reach, such as URL or S3.")
@click.option("--origin", multiple=True, help="A web page that may ask, as https://name:port.")
@click.option("--max-memory", type=int, help="Bytes the engine may use; default: half of all.")
@click.option("--min-free", type=int, help="Bytes that have to be free to write anything.")
@click.option("--patience", default=PATIENCE_S, help="Seconds a client may be still.")
@click.option("--until-unused", is_flag=True, help="Stop once no process uses the folder.")
def main(
    path: Path,
    port: int,
    host: str,
    user: str,
    files: Path | None,
    source: tuple[str, ...],
    origin: tuple[str, ...],
    max_memory: int | None,
    min_free: int | None,
    patience: float,
    until_unused: bool,
) -> None:
    """Serve a chDB folder through the ClickHouse HTTP interface."""
    try:
        serve(
            path,
            port,
            host=host,
            user=user,
            access=Access(os.environ.get(PASSWORD_VARIABLE), files, source, origin),
            max_memory=max_memory,
            min_free=min_free,
            patience=patience,
            until_unused=until_unused,
        )
    except EmbeddedError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


main()

"""`sql`: hands a query to ClickHouse and its answer to standard output, byte for byte."""

from __future__ import annotations

from typing import BinaryIO

import requests

from pipeline.errors import ClickHouseUnavailable, QueryFailed
from pipeline.warehouse.client import Server

DEFAULT_FORMAT = "TabSeparatedWithNames"
CHUNK = 1 << 20  # bytes
TIMEOUTS_S = (10, 600)  # to connect, and between two reads


def run_query(target: Server, database: str, text: str, sink: BinaryIO) -> None:
    """Run one query and stream what ClickHouse returns, tab-separated with names unless it names a FORMAT.

    Raises:
        QueryFailed: ClickHouse refused it; the message is the first line of ClickHouse's own.
        ClickHouseUnavailable: nothing answers.
    """
    scheme = "https" if target.secure else "http"
    try:
        response = requests.post(
            f"{scheme}://{target.host}:{target.port}/",
            params={"default_format": DEFAULT_FORMAT, "database": database},
            headers={"X-ClickHouse-User": target.user, "X-ClickHouse-Key": target.password},
            data=text.encode(),
            stream=True,
            timeout=TIMEOUTS_S,
        )
        with response:
            if response.status_code != requests.codes.ok:
                # The first line says what and where; what follows lists every token that may come.
                said = response.text.strip().partition("\n")[0]
                raise QueryFailed(said.partition(" Expected one of: ")[0])
            for chunk in response.iter_content(CHUNK):
                sink.write(chunk)
            sink.flush()
    except requests.Timeout as error:
        raise ClickHouseUnavailable(f"{target} sent nothing for {TIMEOUTS_S[1]} s") from error
    except requests.ConnectionError as error:
        raise ClickHouseUnavailable(f"{target} does not answer; is it up?") from error

"""Queries of an SQD Portal's streams: parsed and checked as a portal does, and applied to logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from sandbox.chain import Log
from sandbox.contracts import EXCHANGES, Transfer, data_of, place_of, topics_of
from sandbox.wire import Answer

_QUERY_KEYS = {"type", "fromBlock", "toBlock", "parentBlockHash", "fields", "includeAllBlocks"}
_ITEM_KEYS = {"logs", "transactions", "traces", "stateDiffs"}  # of which only logs are served
_BLOCK_FIELDS = {
    *("number", "hash", "parentHash", "timestamp", "gasUsed", "logsBloom"),
    *("transactionsRoot", "receiptsRoot"),
}
_LOG_FIELDS = {
    *("address", "topics", "data", "transactionHash", "logIndex", "transactionIndex"),
}
_LOG_FILTERS = {"address", "topic0", "topic1", "topic2", "topic3"}
_EXCHANGES = set(EXCHANGES.values())


class PortalError(Exception):
    """An error in the portal's envelope.

    Attributes:
        status: of HTTP.
        kind, code: `error.type` and `error.code`.
        extra: what stands beside `error` in the body.
    """

    def __init__(self, status: int, kind: str, code: str, message: str, **extra: Any) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.extra = status, kind, code, extra

    def answer(self, **headers: str) -> Answer:
        """The error as an answer."""
        error = {"type": self.kind, "code": self.code, "message": str(self)}
        body = orjson.dumps({"error": error} | self.extra)
        return Answer(body, self.status, {"Content-Type": "application/json"} | headers)


def malformed(message: str) -> PortalError:
    """What a query that does not parse is answered with."""
    return PortalError(400, "invalid_request_error", "malformed_request", message)


@dataclass(frozen=True)
class Query:
    """One request to a stream, checked.

    Attributes:
        first, last: blocks asked for, both included; None is up to the head.
        parent_hash: what the block before `first` must be.
        filters: a log is sent when it passes one of them.
    """

    first: int
    last: int | None
    parent_hash: str | None
    all_blocks: bool
    block_fields: list[str]
    log_fields: list[str]
    filters: list[dict[str, set[str]]]

    @classmethod
    def parse(cls, body: bytes) -> Query:
        """Read a request body.

        Raises:
            PortalError: it is malformed; the portal refuses every key and field that it does not know.
        """
        try:
            query = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise malformed(f"Query parsing error: {error}") from None
        if not isinstance(query, dict) or query.get("type") != "evm":
            raise malformed("Query parsing error: expected a query of type evm")
        _refuse_unknown(query, _QUERY_KEYS | _ITEM_KEYS, "field")
        for name in _ITEM_KEYS - {"logs"}:
            if query.get(name):
                raise malformed(f"{name} are not served here")
        first, last = query.get("fromBlock", 0), query.get("toBlock")
        for name, value in (("fromBlock", first), ("toBlock", last)):
            if value is not None and (type(value) is not int or value < 0):
                raise malformed(f"Query parsing error: {name} is no block number")
        if last is not None and last < first:
            raise malformed("fromBlock is above toBlock")
        fields = query.get("fields") or {}
        _refuse_unknown(fields, {"block", "log", "transaction", "trace", "stateDiff"}, "field")
        return cls(
            first=first,
            last=last,
            parent_hash=query.get("parentBlockHash"),
            all_blocks=query.get("includeAllBlocks") is True,
            block_fields=_selected(fields.get("block"), _BLOCK_FIELDS),
            log_fields=_selected(fields.get("log"), _LOG_FIELDS),
            filters=[_filter(each) for each in query.get("logs") or []],
        )

    @property
    def of_exchanges(self) -> bool:
        """Whether no filter can let other contracts' logs pass."""
        return all(each.get("address", {""}) <= _EXCHANGES for each in self.filters)

    def matches(self, log: Log | Transfer) -> bool:
        """Whether the log passes any of the filters."""
        topics = topics_of(log)
        return any(
            all(_value(log, topics, name) in wanted for name, wanted in each.items())
            for each in self.filters
        )

    def log_of(self, log: Log | Transfer) -> dict:
        """The fields asked for, integers as numbers."""
        leg = place_of(log)
        whole = {
            "address": log.exchange,
            "topics": topics_of(log),
            "data": data_of(log),
            "transactionHash": leg.tx_hash,
            "logIndex": log.log_index,
            "transactionIndex": leg.tx_index,
        }
        return {name: whole[name] for name in self.log_fields}


def _refuse_unknown(given: Any, known: set[str], what: str) -> None:
    if not isinstance(given, dict):
        raise malformed(f"Query parsing error: expected an object of {what}s")
    unknown = given.keys() - known
    if unknown:
        raise malformed(f"Query parsing error: unknown {what} `{min(unknown)}`")


def _selected(given: Any, known: set[str]) -> list[str]:
    if given is None:
        return []
    _refuse_unknown(given, known, "field")
    return [name for name, wanted in given.items() if wanted is True]


def _filter(given: Any) -> dict[str, set[str]]:
    """A log filter: an empty list lets nothing pass, one that is left out anything."""
    _refuse_unknown(given, _LOG_FILTERS, "filter")
    for name, values in given.items():
        if values is not None and not (
            isinstance(values, list) and all(isinstance(value, str) for value in values)
        ):
            raise malformed(f"Query parsing error: {name} is no list of strings")
    return {name: set(values) for name, values in given.items() if values is not None}


def _value(log: Log | Transfer, topics: list[str], name: str) -> str | None:
    """Address or topic of a log; compared as written, so that upper case matches nothing."""
    if name == "address":
        return log.exchange
    at = int(name.removeprefix("topic"))
    return topics[at] if at < len(topics) else None

"""The public orderbook subgraph as graph-node serves it: a frozen archive of V1 fills behind
GraphQL.

It keeps graph-node's rules: 100 rows unless `first` says otherwise, at most 1000, `skip` up to
5000, ties broken by id in the direction of the order, no `or` beside column filters, errors with
status 200. The archive has no block number, log index or exchange address, and a second fill of one
order in one transaction replaces the first, as in the original.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.clock import HORIZON
from sandbox.contracts import Fill
from sandbox.graphql import QueryError, Selection, parse_query

DEFAULT_FIRST, MAX_FIRST, MAX_SKIP = 100, 1000, 5000

# Field of OrderFilledEvent -> its value; amounts and times are JSON strings (BigInt).
_FIELDS: dict[str, Callable[[Fill], str]] = {
    "id": lambda fill: fill.archive_id,
    "transactionHash": lambda fill: fill.tx_hash,
    "timestamp": lambda fill: str(fill.timestamp),
    "orderHash": lambda fill: fill.order_hash,
    "maker": lambda fill: fill.maker,
    "taker": lambda fill: fill.taker,
    "makerAssetId": lambda fill: fill.maker_asset_id,
    "takerAssetId": lambda fill: fill.taker_asset_id,
    "makerAmountFilled": lambda fill: str(fill.maker_amount),
    "takerAmountFilled": lambda fill: str(fill.taker_amount),
    "fee": lambda fill: str(fill.fee),
    "__typename": lambda fill: "OrderFilledEvent",
}
# Fields that compare as numbers, although they travel as strings.
_NUMBERS = {"timestamp", "makerAmountFilled", "takerAmountFilled", "fee"}
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "": lambda value, wanted: value == wanted,
    "not": lambda value, wanted: value != wanted,
    "gt": lambda value, wanted: value > wanted,
    "gte": lambda value, wanted: value >= wanted,
    "lt": lambda value, wanted: value < wanted,
    "lte": lambda value, wanted: value <= wanted,
    "in": lambda value, wanted: value in wanted,
    "not_in": lambda value, wanted: value not in wanted,
}
Predicate = Callable[[Fill], bool]


def goldsky_app(fills: Iterable[Fill], *, page_cap: int = MAX_FIRST) -> Starlette:
    """The subgraph over `fills`, on POST of any path; `page_cap` is the largest `first` allowed."""
    archive = Archive(fills, page_cap)

    async def respond(request: Request) -> Response:
        answer = archive.respond(await request.body())
        return Response(orjson.dumps(answer), media_type="application/json")

    return Starlette(routes=[Route("/{path:path}", respond, methods=["POST"])])


class Archive:
    """Fills in both orders the subgraph can return them in."""

    def __init__(self, fills: Iterable[Fill], page_cap: int = MAX_FIRST) -> None:
        """Index `fills`; of two with the same id the later one stays, as entities do."""
        entities = {fill.archive_id: fill for fill in fills}
        self._by_id = [entities[entity_id] for entity_id in sorted(entities)]
        self._by_time = sorted(self._by_id, key=lambda fill: fill.timestamp)  # stable: ties by id
        self._page_cap = page_cap

    def respond(self, body: bytes) -> dict:
        """Answer one GraphQL request body."""
        try:
            request = orjson.loads(body)
            selections = parse_query(request["query"], request.get("variables"))
            return {"data": {each.alias: self._resolve(each) for each in selections}}
        except QueryError as error:
            return {"errors": [{"message": str(error)}]}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return {"errors": [{"message": "the request body is not a GraphQL request"}]}

    def _resolve(self, selection: Selection) -> Any:
        if selection.name == "orderFilledEvents":
            fields = _requested_fields(selection)
            return [
                {alias: value(fill) for alias, value in fields} for fill in self._page(selection)
            ]
        if selection.name == "orderFilledEvent":
            wanted = str(selection.arguments.get("id"))
            position = bisect_left(self._by_id, wanted, key=_FIELDS["id"])
            found = self._by_id[position : position + 1]
            if not found or found[0].archive_id != wanted:
                return None
            return {alias: value(found[0]) for alias, value in _requested_fields(selection)}
        if selection.name == "_meta":
            return _pick(_META, selection)
        if selection.name == "__typename":
            return "Query"
        raise QueryError(f"Type `Query` has no field `{selection.name}`")

    def _page(self, selection: Selection) -> list[Fill]:
        arguments = selection.arguments
        first = _ranged(arguments, "first", DEFAULT_FIRST, 1, self._page_cap)
        skip = _ranged(arguments, "skip", 0, 0, MAX_SKIP)
        where = arguments.get("where") or {}
        matches = compile_filter(where)
        last_block = _block_limit(arguments.get("block"))
        page = []
        for fill in self._candidates(arguments, where):
            if matches(fill) and fill.block_number <= last_block:
                page.append(fill)
                if len(page) == first + skip:
                    break
        return page[skip:]

    def _candidates(self, arguments: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[Fill]:
        """Rows in the requested order, narrowed to what the filter on that column leaves."""
        column = arguments.get("orderBy") or "id"
        direction = arguments.get("orderDirection") or "asc"
        if direction not in ("asc", "desc"):
            raise QueryError(f"Invalid value provided for argument `orderDirection`: {direction}")
        if column == "timestamp":
            low, high = filter_span(where, "timestamp")
            rows, key = self._by_time, lambda fill: fill.timestamp
        elif column == "id":
            low, high = filter_span(where, "id")
            rows, key = self._by_id, _FIELDS["id"]
        else:
            raise QueryError(f"Ordering by `{column}` is not supported here, only timestamp and id")
        start = 0 if low is None else bisect_left(rows, low, key=key)
        stop = len(rows) if high is None else bisect_right(rows, high, key=key)
        span = range(start, stop) if direction == "asc" else range(stop - 1, start - 1, -1)
        return (rows[position] for position in span)


# As seen live: the archive stands still, and does not say when its last block was.
_META = {
    "block": {
        "number": HORIZON.block_number,
        "timestamp": None,
        "hash": "0x" + "5a" * 32,
        "__typename": "_Block_",
    },
    "deployment": "QmSandbox",
    "hasIndexingErrors": False,
    "__typename": "_Meta_",
}


def _pick(value: Mapping[str, Any], selection: Selection) -> dict:
    picked = {}
    for each in selection.selections:
        if each.name not in value:
            raise QueryError(f"Type `{value['__typename']}` has no field `{each.name}`")
        member = value[each.name]
        picked[each.alias] = _pick(member, each) if isinstance(member, Mapping) else member
    return picked


def _requested_fields(selection: Selection) -> list[tuple[str, Callable[[Fill], str]]]:
    for each in selection.selections:
        if each.name not in _FIELDS:
            raise QueryError(f"Type `OrderFilledEvent` has no field `{each.name}`")
    if not selection.selections:
        raise QueryError(f"Field `{selection.name}` must have a selection of subfields")
    return [(each.alias, _FIELDS[each.name]) for each in selection.selections]


def _ranged(arguments: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = arguments.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or not low <= value <= high:
        raise QueryError(f"The `{name}` argument must be between 0 and {high}, but is {value}")
    return value


def _block_limit(block: Mapping[str, Any] | None) -> int:
    """The last block a query may see."""
    if not block:
        return HORIZON.block_number
    number = block.get("number")
    if not isinstance(number, int):
        raise QueryError("Failed to decode `block`: only `block: {number: N}` is served")
    if number > HORIZON.block_number:
        raise QueryError(
            "Failed to decode `block.number` value: `subgraph has only indexed up to block number "
            f"{HORIZON.block_number} and data for block number {number} is therefore not yet "
            "available`"
        )
    return number


def compile_filter(where: Mapping[str, Any]) -> Predicate:
    """A `where` argument as a predicate.

    Raises:
        QueryError: an unknown field, or `or` next to column filters on one level, which graph-node
        does not allow.
    """
    if not isinstance(where, Mapping):
        raise QueryError("Filter must by an object")  # graph-node's wording
    columns = [name for name in where if name not in ("or", "and")]
    if "or" in where and columns:
        raise QueryError(
            "Cannot mix column filters with 'or' operator at the same level. "
            f"Found column filter(s) {', '.join(map(repr, columns))} alongside 'or' operator."
        )
    parts = [_column_filter(name, where[name]) for name in columns]
    if where.get("and"):
        parts += [compile_filter(each) for each in where["and"]]
    if where.get("or"):
        branches = [compile_filter(each) for each in where["or"]]
        parts.append(lambda fill: any(branch(fill) for branch in branches))
    return lambda fill: all(part(fill) for part in parts)


def _column_filter(name: str, wanted: Any) -> Predicate:
    field, _, operator = name.partition("_")
    if field not in _FIELDS or operator not in _OPERATORS:
        raise QueryError(f"Field `{name}` is not defined in OrderFilledEvent_filter")
    wanted = _coerce(field, wanted)
    compare, value_of = _OPERATORS[operator], _FIELDS[field]
    if field in _NUMBERS:
        return lambda fill: compare(int(value_of(fill)), wanted)
    return lambda fill: compare(value_of(fill), wanted)


def _coerce(field: str, wanted: Any) -> Any:
    """A filter value as the type its column compares in."""
    if isinstance(wanted, list):
        return [_coerce(field, each) for each in wanted]
    if field not in _NUMBERS:
        return str(wanted)
    try:
        return int(wanted)
    except (TypeError, ValueError):
        raise QueryError(f"Failed to coerce value `{wanted}` for `{field}` to BigInt") from None


def filter_span(where: Mapping[str, Any], column: str) -> tuple[Any, Any]:
    """The lowest and highest value of `column` that can pass a filter; None: no bound."""
    low = high = None
    for operator in ("", "gt", "gte", "lt", "lte"):
        name = f"{column}_{operator}" if operator else column
        if name not in where:
            continue
        value = _coerce(column, where[name])
        if operator in ("", "gt", "gte"):
            low = value if low is None else max(low, value)
        if operator in ("", "lt", "lte"):
            high = value if high is None else min(high, value)
    for branch in where.get("and") or ():
        branch_low, branch_high = filter_span(branch, column)
        low = branch_low if low is None else low if branch_low is None else max(low, branch_low)
        high = (
            branch_high if high is None else high if branch_high is None else min(high, branch_high)
        )
    if where.get("or"):
        lows, highs = zip(*(filter_span(branch, column) for branch in where["or"]), strict=True)
        if None not in lows:
            low = min(lows) if low is None else max(low, min(lows))
        if None not in highs:
            high = max(highs) if high is None else min(high, max(highs))
    return low, high

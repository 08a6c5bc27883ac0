"""The exchange contracts as a log reader sees them: addresses, event topics and ABI encoding of
their logs.

Promises that a log built here has the fields, widths and letter case of a real node's answer. It
knows nothing of markets or of why a fill happened; `matches` decides that. Facts: contract sources
of the CTF exchange, V1 and V2, and of ExchangeV3, which kept the events of V2.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.clock import HORIZON

CHAIN_ID = 137
V1, V2, V3 = "v1", "v2", "v3"
BUY, SELL = "BUY", "SELL"
COLLATERAL_ASSET_ID = "0"
NO_BUILDER = "0x" + "0" * 64

# (contract version, neg risk) -> exchange. Lower case, as nodes and the subgraph write addresses.
EXCHANGES = {
    (V1, False): "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e",
    (V1, True): "0xc5d563a36ae78145c45a50134d48a1215220f80a",
    (V2, False): "0xe111180000d2663c0091e4f400237545b87b996b",
    (V2, True): "0xe2222d279d744050d28e00520010520000310f59",
    # One exchange for all modules.
    (V3, False): "0xe3333700ca9d93003f00f0f71f8515005f6c00aa",
    (V3, True): "0xe3333700ca9d93003f00f0f71f8515005f6c00aa",
}

ORDER_FILLED_TOPICS = {
    V1: "0xd0a08e8c493f9c94f29311604c9de1b4e8c8d4c06bd0c789af57f2d65bfec0f6",
    V2: "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee",
    V3: "0xd543adfd945773f1a62f74f0ee55a5e3b9b1a28262980ba90b1a89f2ea84d8ee",
}
ORDERS_MATCHED_TOPICS = {
    V1: "0x63bf4d16b7fa898ef4c4b2b6d90fd201e9c56313b65638af6088d149d2ce956c",
    V2: "0x174b3811690657c217184f89418266767c87e4805d09680c39fc9c031c0cab7c",
    V3: "0x174b3811690657c217184f89418266767c87e4805d09680c39fc9c031c0cab7c",
}
TRANSFER_TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
COLLATERAL_TOKEN = "0x2791bca1f2de4661ed88a30c99a7a9449aa84174"  # USDC.e
_SIDE_CODES = {BUY: 0, SELL: 1}


@dataclass(slots=True, frozen=True)
class Fill:
    """One OrderFilled event: how much of the order `order_hash`, owned by `maker`, was executed.

    `shares`, `usd` and `fee` are integers in 1e-6 units; `fee` is in the asset received on V1
    (shares for a BUY) and in collateral on V2. `timestamp` is the block time in unix seconds.
    `taker` is the counterparty, or the exchange itself on the leg of a taker order. Only the fields
    without a default matter to the archive, so tests can write rows by hand.
    """

    timestamp: int
    tx_hash: str
    order_hash: str
    token_id: str
    side: str = BUY
    shares: int = 1_000_000
    usd: int = 500_000
    fee: int = 0
    maker: str = "0x" + "1" * 40
    taker: str = "0x" + "2" * 40
    exchange: str = EXCHANGES[V1, False]
    version: str = V1
    block_number: int = HORIZON.block_number
    log_index: int = 0
    tx_index: int = 0
    builder: str = NO_BUILDER

    @property
    def archive_id(self) -> str:
        """The subgraph's entity id."""
        return f"{self.tx_hash}_{self.order_hash}"

    @property
    def maker_asset_id(self) -> str:
        """Asset the order gives, in V1 terms: "0" is collateral."""
        return COLLATERAL_ASSET_ID if self.side == BUY else self.token_id

    @property
    def taker_asset_id(self) -> str:
        """Asset the order receives, in V1 terms."""
        return self.token_id if self.side == BUY else COLLATERAL_ASSET_ID

    @property
    def maker_amount(self) -> int:
        """What the order gave, 1e-6 units."""
        return self.usd if self.side == BUY else self.shares

    @property
    def taker_amount(self) -> int:
        """What the order received, 1e-6 units."""
        return self.shares if self.side == BUY else self.usd


@dataclass(slots=True, frozen=True)
class OrdersMatched:
    """The event emitted after the legs of a match; a reader of fills has to leave it out."""

    taker_leg: Fill
    log_index: int

    @property
    def block_number(self) -> int:
        """Block of the match."""
        return self.taker_leg.block_number

    @property
    def exchange(self) -> str:
        """Contract that emitted it."""
        return self.taker_leg.exchange


@dataclass(slots=True, frozen=True)
class Transfer:
    """What other contracts log: a token moves. `exchange` is the emitter, as in the other events."""

    timestamp: int
    tx_hash: str
    block_number: int
    log_index: int
    tx_index: int
    sender: str
    receiver: str
    amount: int
    exchange: str = COLLATERAL_TOKEN


def _word(value: int) -> str:
    return f"{value:064x}"


def _address_topic(address: str) -> str:
    return "0x" + address[2:].rjust(64, "0")


def topics_of(event: Fill | OrdersMatched | Transfer) -> list[str]:
    """Topics of an event: its signature hash, then the indexed arguments."""
    if isinstance(event, Transfer):
        return [TRANSFER_TOPIC, _address_topic(event.sender), _address_topic(event.receiver)]
    if isinstance(event, OrdersMatched):
        leg = event.taker_leg
        return [ORDERS_MATCHED_TOPICS[leg.version], leg.order_hash, _address_topic(leg.maker)]
    return [
        ORDER_FILLED_TOPICS[event.version],
        event.order_hash,
        _address_topic(event.maker),
        _address_topic(event.taker),
    ]


def data_of(event: Fill | OrdersMatched | Transfer) -> str:
    """ABI-encoded arguments that are not indexed, 0x and 64 hex digits a word."""
    if isinstance(event, Transfer):
        return "0x" + _word(event.amount)
    matched = isinstance(event, OrdersMatched)
    leg = event.taker_leg if matched else event
    if leg.version == V1:
        words = [int(leg.maker_asset_id), int(leg.taker_asset_id)]
    else:
        words = [_SIDE_CODES[leg.side], int(leg.token_id)]
    words += [leg.maker_amount, leg.taker_amount]
    if not matched:
        words.append(leg.fee)
        if leg.version != V1:
            words += [int(leg.builder, 16), 0]  # builder, metadata
    return "0x" + "".join(map(_word, words))


def place_of(event: Fill | OrdersMatched | Transfer) -> Fill | Transfer:
    """What names the transaction of an event."""
    return event.taker_leg if isinstance(event, OrdersMatched) else event


def log_of(
    event: Fill | OrdersMatched | Transfer, block_hash: str, *, with_timestamp: bool
) -> dict:
    """The log as `eth_getLogs` returns it.

    `with_timestamp` adds `blockTimestamp`, which some nodes send and others do not.
    """
    leg = place_of(event)
    log = {
        "address": leg.exchange,
        "topics": topics_of(event),
        "data": data_of(event),
        "blockNumber": hex(leg.block_number),
        "blockHash": block_hash,
        "transactionHash": leg.tx_hash,
        "transactionIndex": hex(leg.tx_index),
        "logIndex": hex(event.log_index),
        "removed": False,
    }
    if with_timestamp:
        log["blockTimestamp"] = hex(leg.timestamp)
    return log

"""The chains of stories: blocks of matches, drawn by a seed, busy or quiet."""

from __future__ import annotations

from functools import cache
from random import Random

from ingest.contracts import V2, V3
from sandbox.chain import Chain, Log
from sandbox.clock import HORIZON, block_time
from sandbox.contracts import EXCHANGES, Fill, OrdersMatched

BASE = HORIZON.block_number + 200_000  # first block with a fill
BLOCKS = 2_400
VERSIONS = (V2, V3)

# Matches a block, and how long stretches without any are.
DENSITIES = {"dense": (4.0, 0), "thin": (0.4, 0), "rare": (0.02, 0), "bursts": (3.0, 150)}
_MARKETS = [(version, neg) for version, neg in EXCHANGES if version in VERSIONS]


@cache
def chain_of(density: str) -> Chain:
    """`BLOCKS` blocks of matches from `BASE` on."""
    rng = Random(density)
    mean, pause = DENSITIES[density]
    logs: list[Log] = []
    number = BASE
    while number < BASE + BLOCKS:
        if pause and rng.random() < 0.01:
            number += rng.randint(10, pause)
        for place in range(
            min(int(rng.expovariate(1 / mean) + 0.5) if mean >= 1 else rng.random() < mean, 20)
        ):
            logs += _match(rng, number, place)
        number += 1
    return Chain(logs, head=BASE + BLOCKS - 1, seed=sum(density.encode()))


def _match(rng: Random, number: int, place: int) -> list[Log]:
    """Maker legs, the taker's leg, and the event behind them."""
    version, neg_risk = rng.choice(_MARKETS)
    exchange = EXCHANGES[version, neg_risk]
    taker = "0x" + rng.randbytes(20).hex()
    legs = []
    count = rng.choice((1, 1, 2, 3))
    common = {
        "timestamp": block_time(number),
        "tx_hash": "0x" + rng.randbytes(32).hex(),
        "token_id": str(rng.getrandbits(200)),
        "exchange": exchange,
        "version": version,
        "block_number": number,
        "tx_index": place,
    }
    for at in range(count + 1):
        legs.append(
            Fill(
                order_hash="0x" + rng.randbytes(32).hex(),
                maker="0x" + rng.randbytes(20).hex() if at < count else taker,
                taker=taker if at < count else exchange,
                log_index=place * 8 + 2 * at + 1,
                **common,
            )
        )
    return [*legs, OrdersMatched(legs[-1], place * 8 + 2 * count + 2)]

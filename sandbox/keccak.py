"""Keccak-256 and the log bloom of Ethereum, as far as block headers need them.

Pure Python, some tenths of a millisecond a hash. Addresses and event topics come again and again, so theirs are kept;
indexed arguments (orders, wallets) get three bits of a faster hash, because no reader looks for one of them in a bloom.
Source: the Keccak reference (padding 0x01, not SHA-3's 0x06) and Ethereum's yellow paper, section 4.3.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b

_MASK = (1 << 64) - 1
_RATE = 136  # bytes taken in at once


def _round_constants() -> list[int]:
    """The 24 constants of the iota step, from the reference's shift register."""
    constants, register = [], 1
    for _ in range(24):
        constant = 0
        for power in range(7):
            if register & 1:
                constant |= 1 << ((1 << power) - 1)
            register = register << 1 ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    return constants


def _rotations() -> list[tuple[int, int, int]]:
    """Of each lane in turn: where it comes from, where it goes (rho and pi), by how many bits."""
    steps, (x, y) = [(0, 0, 0)], (1, 0)
    for turn in range(24):
        source = x + 5 * y
        x, y = y, (2 * x + 3 * y) % 5
        steps.append((source, x + 5 * y, (turn + 1) * (turn + 2) // 2 % 64))
    return steps


_CONSTANTS, _ROTATIONS = _round_constants(), _rotations()


def _permute(lanes: list[int]) -> list[int]:
    for constant in _CONSTANTS:
        columns = [
            a ^ b ^ c ^ d ^ e
            for a, b, c, d, e in zip(
                lanes[:5], lanes[5:10], lanes[10:15], lanes[15:20], lanes[20:], strict=True
            )
        ]
        turned = [column << 1 & _MASK | column >> 63 for column in columns]
        mixed = [columns[x - 1] ^ turned[x - 4] for x in range(5)] * 5
        moved = [0] * 25
        for source, target, bits in _ROTATIONS:
            lane = lanes[source] ^ mixed[source]
            moved[target] = lane << bits & _MASK | lane >> (64 - bits)
        lanes = []
        for row in (0, 5, 10, 15, 20):
            a, b, c, d, e = moved[row : row + 5]
            lanes += (a ^ ~b & c, b ^ ~c & d, c ^ ~d & e, d ^ ~e & a, e ^ ~a & b)
        lanes[0] ^= constant
    return lanes


def keccak256(data: bytes) -> bytes:
    """The hash, 32 bytes."""
    padded = bytearray(data + bytes(_RATE - len(data) % _RATE))
    padded[len(data)] ^= 0x01
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), _RATE):
        for at in range(_RATE // 8):
            offset = start + 8 * at
            lanes[at] ^= int.from_bytes(padded[offset : offset + 8], "little")
        lanes = _permute(lanes)
    return b"".join(lane.to_bytes(8, "little") for lane in lanes[:4])


@lru_cache(maxsize=1000)
def bloom_bits(item: str) -> int:
    """The three bits that an address or an event topic (hex, with 0x) sets in a bloom of 2048 bits."""
    return _three_bits(keccak256(bytes.fromhex(item[2:])))


def argument_bits(topic: str) -> int:
    """Three bits for an indexed argument, by another hash."""
    return _three_bits(blake2b(topic.encode(), digest_size=8).digest())


def _three_bits(digest: bytes) -> int:
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") & 2047)
    return bits


def bloom(logs: Iterable[tuple[str, list[str]]]) -> str:
    """The bloom of logs, of which address and topics are given, as a header carries it: 0x and 512 hex digits."""
    bits = 0
    for address, (event, *arguments) in logs:
        bits |= bloom_bits(address) | bloom_bits(event)
        for argument in arguments:
            bits |= argument_bits(argument)
    return f"0x{bits:0512x}"

"""Seeded mutations of encodings: of their bytes, of the values inside, and of the form in which these are encoded."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import cbor2

INTEGERS = (0, 1, 23, 24, 255, 256, 2**16, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))
STRANGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: rng.choice(INTEGERS),
    lambda rng: rng.choice((2**64, -(2**63) - 1, 2**200)),
    lambda rng: rng.choice((None, True, False)),
    lambda rng: rng.choice((0.0, 1.5, float("nan"), float("inf"))),
    lambda rng: rng.choice(("", "a", "\x00", "a" * 64, "a" * 257, "-", "../..", "ключ", "😀", "0" * 32, "0" * 64)),
    lambda rng: rng.randbytes(rng.choice((0, 1, 31, 32, 33, 63, 64, 65, 300))),
    lambda rng: [],
    lambda rng: {},
    lambda rng: {"a": 1, 2: 3, b"c": None},
    lambda rng: _deep(rng.choice((2, 15, 16, 17, 24, 60))),
    lambda rng: cbor2.CBORTag(rng.choice((0, 2, 28, 29, 35, 258, 55799)), rng.choice((0, "a", b"a", []))),
    lambda rng: cbor2.undefined,
    lambda rng: list(range(rng.choice((2, 30, 5000)))),
)


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Returns something that resembles one of the seeds."""
    seed = rng.choice(seeds)
    kind = rng.randrange(10)
    if kind < 4:
        return mutated_bytes(rng, seed, seeds)
    try:
        tree = cbor2.loads(seed)
    except cbor2.CBORDecodeError:
        return mutated_bytes(rng, seed, seeds)
    if kind < 8:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            tree = mutated_tree(rng, tree)
        return dumped(tree)
    return careless(rng, tree)


def mutated_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Returns the bytes with a few of them changed, taken out, put in, repeated or taken from another seed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice((0, 1, 0x17, 0x18, 0x1B, 0x1F, 0x5F, 0x7F, 0x80, 0x9F, 0xBF, 0xC0, 0xF9, 0xFF))
            case 2:
                out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 9)))
            case 3:
                del out[at : at + rng.choice((1, 1, 2, 9, 40))]
            case 4:
                del out[at:]
            case 5:
                out[at:at] = out[at : at + rng.randrange(1, 40)]
            case _ if others:
                other = rng.choice(others)
                out[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(out)


def mutated_tree(rng: random.Random, tree: Any) -> Any:
    """Returns the value with one place in it changed."""
    if isinstance(tree, list) and tree and rng.random() < 0.9:
        at = rng.randrange(len(tree))
        match rng.randrange(12):
            case 0:
                return tree[:at] + tree[at + 1 :]
            case 1:
                return [*tree[:at], tree[at], *tree[at:]]
            case 2:
                other = rng.randrange(len(tree))
                swapped = list(tree)
                swapped[at], swapped[other] = swapped[other], swapped[at]
                return swapped
            case _:
                return [*tree[:at], mutated_tree(rng, tree[at]), *tree[at + 1 :]]
    if isinstance(tree, dict) and tree and rng.random() < 0.8:
        key = rng.choice(list(tree))
        return {**tree, key: mutated_tree(rng, tree[key])}
    if type(tree) is int and rng.random() < 0.6:
        return rng.choice((tree + 1, tree - 1, rng.choice(INTEGERS)))
    if isinstance(tree, bytes | str) and tree and rng.random() < 0.6:
        at = rng.randrange(len(tree))
        extra: Any = rng.randbytes(1) if isinstance(tree, bytes) else rng.choice("0afzA-./ \x00é")
        return tree[:at] + (extra if rng.random() < 0.7 else extra[:0]) + tree[at + 1 :]
    return rng.choice(STRANGE)(rng)


def dumped(tree: Any) -> bytes:
    """Returns the value as CBOR, with the keys of maps in order where they can be ordered."""
    return cbor2.dumps(tree, canonical=True)


def careless(rng: random.Random, tree: Any) -> bytes:
    """Returns the value as CBOR that is well formed and, somewhere, not the deterministic encoding."""
    rate = rng.choice((0.01, 0.1, 0.5))

    def head(major: int, argument: int) -> bytes:
        widths = [form for limit, form in ((24, ""), (2**8, "B"), (2**16, "H"), (2**32, "I")) if argument < limit]
        form = rng.choice([*widths, "Q"]) if rng.random() < rate else [*widths, "Q"][0]
        if not form:
            return bytes([major << 5 | argument])
        return bytes([major << 5 | {"B": 24, "H": 25, "I": 26, "Q": 27}[form]]) + struct.pack(">" + form, argument)

    def write(value: Any) -> bytes:
        if rng.random() < rate / 10:
            return head(6, rng.choice((0, 2, 24, 28, 29, 55799))) + write(value)
        if value is None or isinstance(value, bool) or not isinstance(value, int | str | bytes | list | dict):
            return cbor2.dumps(value)
        if isinstance(value, int):
            if not -(2**64) <= value < 2**64:
                return cbor2.dumps(value)
            return head(0, value) if value >= 0 else head(1, -1 - value)
        if isinstance(value, str | bytes):
            major, data = (3, value.encode()) if isinstance(value, str) else (2, value)
            if rng.random() < rate / 4:
                return bytes([major << 5 | 31]) + head(major, len(data)) + data + b"\xff"
            return head(major, len(data)) + data
        items = [write(item) for item in value] if isinstance(value, list) else _entries(rng, value, write, rate)
        major = 4 if isinstance(value, list) else 5
        if rng.random() < rate / 4:
            return bytes([major << 5 | 31]) + b"".join(items) + b"\xff"
        return head(major, len(items)) + b"".join(items)

    return write(tree)


def _entries(rng: random.Random, value: dict[Any, Any], write: Callable[[Any], bytes], rate: float) -> list[bytes]:
    entries = [write(key) + write(item) for key, item in value.items()]
    if entries and rng.random() < rate:
        entries.append(rng.choice(entries))
    if rng.random() < rate:
        rng.shuffle(entries)
    return entries

"""A process that writes and says what is durable, until somebody kills it: ``victim.py KIND FOLDER SEED``.

Every line it prints is a promise: the sequence, hash or height up to which everything must be found afterwards.
"""

import asyncio
import random
import sys
from pathlib import Path

from agentworld_core.hashing import content_id
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.index import Index
from agentworld_node.storage.index_schema import BlockEntry, ReceiptEntry
from agentworld_node.storage.wal import WriteAheadLog

SEGMENT_BYTES = 20_000


def payload(sequence: int) -> bytes:
    """What record or blob number ``sequence`` holds, whoever wrote it."""
    rng = random.Random(sequence)
    return rng.randbytes(rng.choice((0, 5, 100, 3_000)))


def block(height: int) -> tuple[BlockEntry, list[ReceiptEntry]]:
    """Block and receipts of a height."""
    hashes = [content_id(b"%d %d" % (height, part)) for part in range(6)]
    entry = BlockEntry(height, hashes[0], hashes[1], hashes[2], height // 10, height * 7)
    return entry, [ReceiptEntry(action, height, place, ok=True) for place, action in enumerate(hashes[3:])]


def promise(value: object) -> None:
    print(value, flush=True)


async def write_log(folder: Path, seed: int) -> None:
    """Several producers that append and sync as they like."""
    rng = random.Random(seed)
    log = WriteAheadLog.open(folder, segment_bytes=SEGMENT_BYTES)
    promise("ready")

    async def produce() -> None:
        while True:
            for _ in range(rng.randrange(1, 6)):
                log.append(log.last_sequence % 5, payload(log.last_sequence + 1))
            appended = log.last_sequence
            await log.sync()
            promise(appended)

    await asyncio.gather(*(produce() for _ in range(4)))


def write_blobs(folder: Path, seed: int) -> None:
    store = FileBlobStore.open(folder)
    promise("ready")
    number = seed * 1_000
    while True:
        for blob_hash in store.put_many([payload(number), payload(number + 1)], durable=True):
            promise(blob_hash)
        number += 1


def write_index(folder: Path) -> None:
    index, rebuilt = Index.open(folder / "index.sqlite")
    assert not rebuilt
    tip = index.tip()
    height = tip.height if tip else 0
    promise("ready")
    while True:
        height += 1
        index.put_block(*block(height))
        promise(height)


def main() -> None:
    kind, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if kind == "log":
        asyncio.run(write_log(folder, seed))
    elif kind == "blobs":
        write_blobs(folder, seed)
    else:
        write_index(folder)


if __name__ == "__main__":
    main()

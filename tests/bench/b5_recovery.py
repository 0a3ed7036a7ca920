"""B5: recovery of the log against a bare CRC scan, restart of a ledger against its history, and injected faults.

The bare scan reads the same files and checks the CRC of every record at the place its length says, and nothing else. A
log that was closed has notes of what it holds and is opened from these; checking it reads every record all the same.
A restart opens the whole ledger: log, blobs, index, the newest snapshot, and the suffix executed again.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import Genesis, Parameters
from agentworld_node.ledger import Ledger
from agentworld_node.storage.errors import CorruptLog
from agentworld_node.storage.wal import WriteAheadLog
from agentworld_node.storage.wal_format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from tests.bench.harness import Case, LeftOut, Setting, cpu, wall
from tests.bench.material import VALIDATOR, moves, next_block, unsynced
from tests.unit.node.material import make_genesis

KIND = 1
RECORD_BYTES = 256
SUFFIX = 16
INTERVAL = 128
_PREFIX = struct.Struct("<I8sI")  # CRC, mark, payload length: the begin of a record
_numbers = itertools.count()


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields recovery against the bare scan, restart after a long history, and restart after a longer suffix."""
    records = setting.size(100_000, 2_000)
    folder = setting.folder / "scanned"
    _fill(folder, records)
    yield Case(
        id="B5",
        case=f"checking a log of {records:,} records",
        peer="bare CRC scan",
        ours=lambda: cpu(lambda: WriteAheadLog.open(folder, check_all=True).close(), items=records),
        theirs=lambda: cpu(lambda: _bare_scan(folder), items=records),
        goal=0.6,
        check=lambda: _wrong_faults(setting),
    )
    yield Case(
        id="B5",
        case=f"opening a log of {records:,} records that are noted",
        peer="bare CRC scan",
        ours=lambda: cpu(lambda: WriteAheadLog.open(folder).close(), items=records),
        theirs=lambda: cpu(lambda: _bare_scan(folder), items=records),
        goal=None,
    )
    shutil.rmtree(folder)
    few, many = INTERVAL * setting.size(8, 1), INTERVAL * setting.size(32, 2)
    genesis = make_genesis((VALIDATOR,), _parameters())
    short, long = (_ledger_of(setting, genesis, blocks + SUFFIX) for blocks in (few, many))
    yield Case(
        id="B5",
        case=f"restart, height {many + SUFFIX:,}, {SUFFIX} after the snapshot",
        peer=f"height {few + SUFFIX:,}, {SUFFIX} after the snapshot",
        ours=lambda: _restart(long, genesis),
        theirs=lambda: _restart(short, genesis),
        goal=1.3,
        kind="cost",
        check=lambda: _wrong_restart(long, genesis, many + SUFFIX),
    )


def _parameters() -> Parameters:
    return Parameters(
        block_interval_ms=0,
        max_batch_actions=64,
        max_batch_bytes=64 * 1024,
        journal_events_per_segment=64,
        snapshot_interval=INTERVAL,
        leaseless=True,
    )


def _fill(folder: Path, records: int, *, segment_bytes: int = 16 * 2**20) -> None:
    """A log of so many records, ten of which share a sync."""
    with WriteAheadLog.open(folder, segment_bytes=segment_bytes) as log:
        for number in range(records):
            log.append(KIND, number.to_bytes(8, "big") + bytes(RECORD_BYTES - 8))
            if number % 1_000 == 0:
                log.sync_now()


def _segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.wal"))


def _bare_scan(folder: Path) -> int:
    """Checks the CRC of every record where its length says that it lies; returns how many there are."""
    found = 0
    for path in _segments(folder):
        data = path.read_bytes()
        view = memoryview(data)
        offset = SEGMENT_HEADER_BYTES
        while offset + RECORD_HEADER_BYTES <= len(data):
            crc, _, length = _PREFIX.unpack_from(data, offset)
            end = offset + RECORD_HEADER_BYTES + length
            if zlib.crc32(view[offset + 4 : end]) != crc:
                break
            found += 1
            offset = end
    return found


def _wrong_faults(setting: Setting) -> str | None:
    """Injects faults into copies of a small log and compares what recovery says of each with what it is."""
    original = setting.folder / f"faults-{next(_numbers)}"
    _fill(original, 3_000, segment_bytes=256 * 1024)
    record = RECORD_HEADER_BYTES + RECORD_BYTES
    last = _segments(original)[-1]
    size = last.stat().st_size
    for cut in (1, record // 2, record - 1, record + 7):
        folder = _copy(original)
        _segments(folder)[-1].open("r+b").truncate(size - cut)
        if _verdict(folder) != "torn":
            return f"a tail cut by {cut} bytes is taken for {_verdict(folder)}"
    for place in range(SEGMENT_HEADER_BYTES + 20, _segments(original)[0].stat().st_size, 9_973):
        folder = _copy(original)
        damaged = bytearray(_segments(folder)[0].read_bytes())
        damaged[place] ^= 1
        _segments(folder)[0].write_bytes(damaged)
        if _verdict(folder) != "corrupt":
            return f"a bit flipped at {place} of an early segment is taken for {_verdict(folder)}"
    folder = _copy(original)
    _segments(folder)[1].unlink()
    if _verdict(folder) != "corrupt":
        return f"a missing segment is taken for {_verdict(folder)}"
    return None if _verdict(_copy(original)) == "whole" else "a whole log is not taken for one"


def _copy(original: Path) -> Path:
    return Path(shutil.copytree(original, original.parent / f"copy-{next(_numbers)}"))


def _verdict(folder: Path) -> str:
    try:
        with WriteAheadLog.open(folder, check_all=True) as log:
            return "whole" if log.torn is None else "torn"
    except CorruptLog:
        return "corrupt"
    except AgentWorldError as error:
        return error.code


def _ledger_of(setting: Setting, genesis: Genesis, blocks: int) -> Path:
    """A data folder with so many blocks of one action each, closed."""
    folder = setting.folder / f"ledger-{next(_numbers)}"
    actions = iter(moves(blocks))

    async def fill() -> None:
        ledger = Ledger.open(folder, genesis)
        try:
            for _ in range(blocks):
                bundle, execution = next_block(ledger.chain, [next(actions)])
                await ledger.apply(bundle, execution=execution)
                if bundle.block.snapshot_ref is not None:
                    await ledger.settle()  # a snapshot that falls behind the blocks would be left out
        finally:
            await ledger.settle()
            ledger.close()

    with unsynced():
        asyncio.run(fill())
    return folder


def _restart(folder: Path, genesis: Genesis) -> float:
    return wall(lambda: Ledger.open(folder, genesis).close(), items=1)


def _wrong_restart(folder: Path, genesis: Genesis, height: int) -> str | None:
    """Says whether a restart comes back at the height, in the state that the block there commits to."""
    ledger = Ledger.open(folder, genesis)
    try:
        head = ledger.bundle(height)
        if ledger.height != height or head is None:
            return f"the ledger came back at height {ledger.height} instead of {height}"
        return None if head.block.state_root == ledger.chain.tree.root else "the ledger came back in another state"
    finally:
        ledger.close()

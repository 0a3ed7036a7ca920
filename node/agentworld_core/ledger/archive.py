"""The form of an archive: a world up to one height in one file, with exactly one right sequence of bytes (ADR 0013).

It is a POSIX tar file without anything that could vary: regular files only, fixed owner, mode and time, and names that
follow from the content. A reader therefore knows at every place which name must come, takes no other, and writes
nothing under a name that it has read.

======================================  ============================================================================
``archive.cbor``                        what the archive holds (``ArchiveHeader``)
``genesis.cbor``                        the genesis document
``blocks/<height>/block.cbor``          block, batch and certificate (``BlockBundle``), from height 1 on; for each,
``blocks/<height>/journal.cbor``        the list of its journal segments (``Journal``),
``blocks/<height>/segment-<n>.cbor``    the segments (``EventSegment``), in order,
``blocks/<height>/receipts.cbor``       and its receipts (``ReceiptList``)
``directories/<epoch>.cbor``            every directory up to the last one scheduled
``snapshot/manifest.cbor``              the newest snapshot at or below the height (``SnapshotManifest``), if any,
``snapshot/chunk-<n>.cbor``             and its chunks (``StateChunk``), in order
======================================  ============================================================================
"""

from __future__ import annotations

from agentworld_core.codec import U64, Hash, Id, message
from agentworld_core.errors import MalformedEncoding

FORMAT = 1
BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
MAX_ENTRY_BYTES = 256 * 1024 * 1024
HEADER_NAME = "archive.cbor"
GENESIS_NAME = "genesis.cbor"
MANIFEST_NAME = "snapshot/manifest.cbor"


@message(100, "archive")
class ArchiveHeader:
    """What an archive holds; ``snapshot_height`` is 0 when there is no snapshot at or below ``height``."""

    format: U64
    world_id: Id
    genesis_hash: Hash
    height: U64
    block_hash: Hash
    state_root: Hash
    snapshot_height: U64


def block_name(height: int, part: str = "block") -> str:
    """Returns the name of a part of a height: block, journal, segment-0000 and so on, receipts."""
    return f"blocks/{height:012d}/{part}.cbor"


def segment_name(height: int, number: int) -> str:
    """Returns the name of a journal segment of a height."""
    return block_name(height, f"segment-{number:04d}")


def directory_name(epoch: int) -> str:
    """Returns the name of a directory epoch."""
    return f"directories/{epoch:06d}.cbor"


def chunk_name(number: int) -> str:
    """Returns the name of a chunk of the snapshot."""
    return f"snapshot/chunk-{number:06d}.cbor"


def entry_header(name: str, size: int) -> bytes:
    """Returns the tar header of a regular file; the only one there is for this name and size."""
    if not 0 <= size <= MAX_ENTRY_BYTES:
        raise MalformedEncoding(f"an entry has at most {MAX_ENTRY_BYTES} bytes", field=name, value=size)
    fields = (
        name.encode("ascii").ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,  # mode, owner, group
        b"%011o\0" % size,
        b"00000000000\0",  # time
    )
    before = b"".join(fields)
    after = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(155 + 12)
    checksum = b"%06o\0 " % sum(before + b" " * 8 + after)
    header = before + checksum + after
    if len(header) != BLOCK_BYTES:
        raise MalformedEncoding("is too long for a name", field="name", value=name)
    return header


def parse_entry_header(data: bytes) -> tuple[str, int]:
    """Returns name and size of an entry; raises MalformedEncoding unless it is exactly what ``entry_header`` gives."""
    try:
        name = data[:100].rstrip(b"\0").decode("ascii")
        size = int(data[124:135], 8)
    except ValueError as error:
        raise MalformedEncoding("is no entry of an archive", field="entry") from error
    if entry_header(name, size) != data:
        raise MalformedEncoding("is no entry of an archive", field="entry", value=name)
    return name, size


def padding(size: int) -> int:
    """Returns how many zero bytes follow an entry of this size."""
    return -size % BLOCK_BYTES

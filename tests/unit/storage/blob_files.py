"""Where the blobs of a store really lie, and how tests damage and lose them there."""

from __future__ import annotations

from pathlib import Path

from agentworld_node.storage.blobs import FileBlobStore


def place_of(root: Path, blob_hash: str) -> tuple[Path, int, int]:
    """Returns the file that holds a blob, where in it, and how many bytes; FileNotFoundError when it is not stored."""
    found = FileBlobStore.reading(root)._packs.find_anew(bytes.fromhex(blob_hash))
    if found is not None:
        pack, place = found
        return pack.path, place.offset, place.size
    path = root / blob_hash[:2] / blob_hash[2:4] / blob_hash
    return path, 0, path.stat().st_size


def stored_bytes(root: Path, blob_hash: str) -> bytes:
    """Returns the bytes on the disk, right or wrong."""
    path, offset, size = place_of(root, blob_hash)
    return path.read_bytes()[offset : offset + size]


def is_stored(root: Path, blob_hash: str) -> bool:
    """True when something is stored under the id."""
    return FileBlobStore.reading(root).has(blob_hash)


def flip_blob(root: Path, blob_hash: str) -> None:
    """Flips one bit in the middle of a blob."""
    path, offset, size = place_of(root, blob_hash)
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        (byte,) = file.read(1)
        file.seek(offset + size // 2)
        file.write(bytes([byte ^ 1]))


def wipe_blob(root: Path, blob_hash: str) -> None:
    """Writes zeros over a blob."""
    path, offset, size = place_of(root, blob_hash)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))


def lose_blob(root: Path, blob_hash: str) -> None:
    """Makes a store that nobody has open forget a blob; nothing happens when it has none."""
    store = FileBlobStore.open(root)
    store.delete(blob_hash)
    store.close()

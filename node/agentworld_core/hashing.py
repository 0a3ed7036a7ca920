"""One content id for everything: BLAKE3-256 in lower-case hex (decision 4 of the design)."""

from __future__ import annotations

from blake3 import blake3

EMPTY_HASH = "0" * 64


def content_id(data: bytes) -> str:
    """Returns the content id of the bytes: 64 lower-case hex digits."""
    return blake3(data).hexdigest()


def digest(data: bytes) -> bytes:
    """Returns the 32 raw bytes of the content id."""
    return blake3(data).digest()


class ContentHasher:
    """Computes the content id of data that comes in pieces."""

    def __init__(self) -> None:
        self._hasher = blake3()

    def update(self, data: bytes) -> None:
        """Takes the next piece."""
        self._hasher.update(data)

    def content_id(self) -> str:
        """Returns the content id of everything taken so far."""
        return str(self._hasher.hexdigest())

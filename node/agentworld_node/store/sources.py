"""Where a blob can be had again: another replica's folder, or a node that serves blobs by hash over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from agentworld_client.errors import GatewayError
from agentworld_client.gateway import GatewayClient
from agentworld_core.errors import HashMismatch, NotFound
from agentworld_node.ledger_stores import BLOBS
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import BlobNotFound

_PATIENCE_SECONDS = 3.0
_PASSED_ON = frozenset({"not_found", "blob_not_found", "blob_corrupt"})


class Source(Protocol):
    """Somebody who may have blobs; nobody has to trust it."""

    @property
    def name(self) -> str:
        """What people call it."""

    async def fetch(self, blob_hash: str) -> bytes | None:
        """Returns bytes that hash to the id, None when it has none; raises when it cannot be asked at all."""

    async def close(self) -> None:
        """Ends what it holds open."""


class FolderSource:
    """The blobs of another data folder, or a folder of blobs itself; it is only read."""

    def __init__(self, path: Path):
        root = path / BLOBS if (path / BLOBS).is_dir() else path
        if not root.is_dir():
            raise NotFound("is not a folder", field="--from", value=path, remedy="name a data folder, or its blobs")
        self.name = str(path)
        self._blobs = FileBlobStore.reading(root)

    async def fetch(self, blob_hash: str) -> bytes | None:
        try:
            return self._blobs.peek(blob_hash)
        except BlobNotFound:
            return None

    async def close(self) -> None:
        """Nothing is held open."""


class GatewaySource:
    """The blobs that a node or a gateway serves."""

    def __init__(self, url: str):
        self.name = url
        self._client = GatewayClient(url, patience=_PATIENCE_SECONDS)
        self._begun = False

    async def fetch(self, blob_hash: str) -> bytes | None:
        if not self._begun:
            await self._client.__aenter__()
            self._begun = True
        try:
            return await self._client.blob(blob_hash)
        except HashMismatch:
            return None
        except GatewayError as error:
            if error.code in _PASSED_ON:
                return None
            raise

    async def close(self) -> None:
        await self._client.close()


def source_of(text: str) -> Source:
    """Returns the source that a URL or a path names; NotFound for a path that is not there."""
    return GatewaySource(text) if text.startswith(("http://", "https://")) else FolderSource(Path(text))

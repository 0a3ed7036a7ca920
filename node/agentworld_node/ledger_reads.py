"""What is asked of a committed ledger; answers come from the index and the blobs, or from the head's state in memory.

These methods only read, and may be called from any thread. A block whose blobs are damaged is taken from the log, which
holds it a second time, and stored again.
"""

from __future__ import annotations

import array
import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cbor2

from agentworld_client.documents import document
from agentworld_core.codec import array_head, decode, decode_value, encode
from agentworld_core.errors import AgentWorldError, NonceUsed, NotFound
from agentworld_core.hashing import content_id
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.segments import read_events
from agentworld_core.messages import (
    ActionBatch,
    BlockBundle,
    Blocks,
    CommitCertificate,
    Directory,
    Genesis,
    Receipt,
    ReceiptList,
    WorldBlock,
)
from agentworld_node.ledger_stores import LedgerStores
from agentworld_node.storage.errors import BlobCorrupt, BlobNotFound, IndexDamaged, StorageFull
from agentworld_node.storage.index_schema import BlockEntry

log = logging.getLogger(__name__)

RECEIPT_BLOCKS_KEPT = 64
BLOB_LIMIT = 64 * 1024 * 1024
"""Largest stored message that is read back; writers keep far below it."""

_LIST_OF_BLOCKS = encode(Blocks(()))[:-1]
_BUNDLE = b"\x84" + cbor2.dumps(BlockBundle.SCHEMA_NUMBER)  # type: ignore[attr-defined]


class LedgerReads:
    """The reading half of a ledger."""

    def __init__(self, *, genesis: Genesis, stores: LedgerStores, chain: ChainState, commits: array.array[int]):
        self.genesis = genesis
        self.genesis_hash = genesis_hash(genesis)
        self.chain = chain
        self.failure: AgentWorldError | None = None
        self._stores = stores
        self._commits = commits
        self._receipts: OrderedDict[int, tuple[Receipt, ...]] = OrderedDict()
        self._recent: dict[str, Receipt] = {}

    @property
    def height(self) -> int:
        """The height of the newest committed block, 0 before the first."""
        return self.chain.height

    def fail(self, error: AgentWorldError) -> None:
        """Notes that the ledger cannot go on; the first reason stays."""
        if self.failure is None:
            self.failure = error

    def directory_at(self, height: int) -> Directory:
        """Returns the directory that governs a height, of those that are settled."""
        return self.chain.directory_at(height)

    def block(self, height: int) -> WorldBlock | None:
        """Returns the block of a height without the cost of decoding its batch, None when it is not committed here."""
        parts = self._parts(height)
        return None if parts is None else decode(WorldBlock, parts[0], limit=BLOB_LIMIT)

    def bundle(self, height: int) -> BlockBundle | None:
        """Returns the block of a height with its batch and certificate, None when this node has not committed it."""
        parts = self._parts(height)
        if parts is None:
            return None
        block, batch, certificate = parts
        return BlockBundle(
            decode(WorldBlock, block, limit=BLOB_LIMIT),
            decode(ActionBatch, batch, limit=BLOB_LIMIT),
            decode(CommitCertificate, certificate, limit=BLOB_LIMIT),
        )

    def encoded_blocks(self, start: int, *, limit: int, max_bytes: int) -> bytes:
        """Returns encoded ``Blocks`` from a height on: at most ``limit``, about ``max_bytes``, but at least one.

        Equal to encoding the bundles, without decoding what is stored in its one encoding already.
        """
        found: list[bytes] = []
        size = 0
        for height in range(start, start + limit):
            parts = self._parts(height)
            if parts is None:
                break
            size += sum(map(len, parts))
            if found and size > max_bytes:
                break
            found.append(_BUNDLE + b"".join(parts))
        return _LIST_OF_BLOCKS + array_head(len(found)) + b"".join(found)

    def height_of(self, block_hash: str) -> int | None:
        """Returns the height of a committed block, None when there is no such block."""
        with self._watched():
            entry = self._stores.index.block_by_hash(block_hash)
        return None if entry is None or entry.height > self.chain.height else entry.height

    def block_hash(self, height: int) -> str | None:
        """Returns the hash of the block that this node has committed at a height."""
        entry = self._entry(height)
        return None if entry is None else entry.block_hash

    def certificate(self, height: int) -> CommitCertificate | None:
        """Returns the certificate of a committed height."""
        parts = self._parts(height)
        return None if parts is None else decode(CommitCertificate, parts[2], limit=BLOB_LIMIT)

    def directory(self, epoch: int | None) -> Directory | None:
        """Returns a directory epoch that the ledger holds, the latest for None."""
        if epoch is None:
            return self.chain.directories[-1].directory
        return next((item.directory for item in self.chain.directories if item.directory.epoch == epoch), None)

    def committed(self, action_ids: Sequence[str]) -> set[str]:
        """Returns those of the actions that are committed here, at a small part of what asking for each would cost."""
        with self._watched():
            found = self._stores.index.heights_of(action_ids)
        return {action_id for action_id, height in found.items() if height <= self.chain.height}

    def receipt(self, action_id: str) -> Receipt | None:
        """Returns the receipt of a committed action."""
        recent = self._recent.get(action_id)
        if recent is not None:
            return recent
        with self._watched():
            entry = self._stores.index.receipt(action_id)
        if entry is None or entry.height > self.chain.height:
            return None
        receipts = self._receipts.get(entry.height)
        if receipts is None:
            bundle = self.bundle(entry.height)
            if bundle is None:
                return None
            data = self._stores.blobs.get(bundle.block.receipts_root)
            receipts = decode(ReceiptList, data, limit=BLOB_LIMIT).receipts
            self._remember_receipts(entry.height, receipts)
        return receipts[entry.position]

    def read_state(self, key: str, *, proof: bool) -> dict[str, Any]:
        """Returns what the head's state holds under a key, as JSON, with the proof on request."""
        chain = self.chain
        name = key.encode()
        data = chain.tree.get(name)
        answer: dict[str, Any] = {
            "key": key,
            "found": data is not None,
            "height": chain.height,
            "block_hash": chain.block_hash,
            "state_root": chain.state_root,
        }
        if data is not None:
            answer["value"] = document(decode_value(data))
            answer["value_cbor"] = data.hex()
        if proof:
            answer["proof"] = encode(chain.tree.prove(name)).hex()
        return answer

    def list_state(self, prefix: str, *, after: str, limit: int, max_bytes: int) -> dict[str, Any]:
        """Returns entries of the head's state whose keys begin with a prefix, as JSON: those behind ``after``.

        At most ``limit`` and about ``max_bytes``, but at least one; ``next`` is what to go on after, null at the end.
        """
        chain = self.chain
        entries: list[dict[str, Any]] = []
        going_on: str | None = None
        size = 0
        for name, data in chain.tree.items(prefix.encode(), after=after.encode()):
            size += len(data)
            if len(entries) == limit or (entries and size > max_bytes):
                going_on = entries[-1]["key"]
                break
            key = name.decode()
            entries.append({"key": key, "value": document(decode_value(data)), "value_cbor": data.hex()})
        return {
            "prefix": prefix,
            "height": chain.height,
            "block_hash": chain.block_hash,
            "state_root": chain.state_root,
            "entries": entries,
            "next": going_on,
        }

    def blob(self, content_hash: str) -> bytes:
        """Returns the bytes of a content id; raises BlobNotFound or BlobCorrupt."""
        return self._stores.blobs.get(content_hash)

    def block_events(self, height: int) -> dict[str, Any]:
        """Returns a committed block with its events, as JSON for followers."""
        bundle = self.bundle(height)
        if bundle is None:
            raise NotFound("is not committed here", field="height", value=height)
        block = bundle.block
        return {
            "height": height,
            "block_hash": content_id(encode(block)),
            "state_root": block.state_root,
            "proposer_id": block.proposer_id,
            "term": block.term,
            "tick": block.tick,
            "timestamp_ms": block.timestamp_ms,
            "actions": len(bundle.batch.actions),
            "events": [document(event) for event in read_events(block.segments, self._stores.blobs.get)],
        }

    def _parts(self, height: int) -> tuple[bytes, bytes, bytes] | None:
        """Returns the encoded block, batch and certificate of a committed height."""
        entry = self._entry(height)
        if entry is None:
            return None
        get = self._stores.blobs.get
        try:
            return get(entry.block_hash), get(entry.batch_hash), get(entry.certificate_hash)
        except (BlobNotFound, BlobCorrupt) as error:
            log.warning("block %d is taken from the log again: %s", height, error)
            return self._heal(height)

    def _heal(self, height: int) -> tuple[bytes, bytes, bytes]:
        """Stores block, batch and certificate of a height again, as far as there is room, and returns them."""
        bundle = self._stores.committed(self._commits[height - 1])
        parts = encode(bundle.block), encode(bundle.batch), encode(bundle.certificate)
        try:
            self._stores.blobs.put_many(parts)
        except StorageFull as error:
            log.warning("block %d cannot be stored again: %s", height, error)
        return parts

    def _entry(self, height: int) -> BlockEntry | None:
        with self._watched():
            return self._stores.index.block_at(height) if 0 < height <= self.chain.height else None

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """An index that turns out to be damaged is built again by the next start, so this one must end."""
        try:
            yield
        except IndexDamaged as error:
            self.fail(error)
            raise

    def _remember_receipts(self, height: int, receipts: tuple[Receipt, ...]) -> None:
        self._receipts[height] = receipts
        # An action that is refused because it was executed before has a second receipt; the first one counts.
        self._recent.update({item.action_id: item for item in receipts if item.code != NonceUsed.code})
        while len(self._receipts) > RECEIPT_BLOCKS_KEPT:
            for item in self._receipts.popitem(last=False)[1]:
                self._recent.pop(item.action_id, None)

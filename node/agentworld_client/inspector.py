"""Looks at one thing of a world and says what proves it: a block, a state value, a receipt, a snapshot, a segment.

Each answer is a JSON document with ``proof``, the sentences that say what was checked. Nothing that fails a check is
returned: VerificationFailed says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agentworld_client.checkpoint import fetch_directories, is_missing
from agentworld_client.documents import document
from agentworld_client.errors import GatewayError, VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_client.history import state_at
from agentworld_client.source import WorldSource
from agentworld_core.codec import decode, decode_value
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField, MalformedEncoding, NotFound
from agentworld_core.ids import check_hash, is_hash
from agentworld_core.ledger.block import block_hash_of
from agentworld_core.ledger.genesis import check_genesis, genesis_hash, genesis_state
from agentworld_core.ledger.segments import SEGMENT_LIMIT
from agentworld_core.ledger.snapshot import MANIFEST_LIMIT, load_manifest
from agentworld_core.ledger.validate import check_alone
from agentworld_core.membership.directory import check_next_directory
from agentworld_core.messages import BlockBundle, Directory, EventSegment, Genesis, ReceiptList, SnapshotManifest
from agentworld_core.world.tree_nodes import MAX_KEY_BYTES
from agentworld_core.world.tree_proof import StateProof, verify_proof

RECEIPTS_LIMIT = 64 * 1024 * 1024


class Inspector:
    """Looks into one world, of which only the genesis document is trusted."""

    def __init__(self, source: WorldSource, genesis: Genesis):
        self._source = source
        self._genesis = genesis
        self._directories: list[Directory] = []

    @classmethod
    async def open(cls, source: WorldSource, *, trusted_genesis: str | None = None) -> Inspector:
        """Returns the inspector of a source; VerificationFailed when its genesis is wrong or not the trusted one."""
        return cls(source, await check_trusted(source, trusted_genesis))

    async def block(self, name: str) -> dict[str, Any]:
        """Returns the block of a height or hash."""
        bundle = await self._bundle(name)
        block = bundle.block
        return {
            "block_hash": block_hash_of(block),
            **document(block),
            "actions": [
                {name: getattr(action, name) for name in ("action_id", "actor_id", "action_kind", "nonce")}
                for action in bundle.batch.actions
            ],
            "certificate": document(bundle.certificate),
            "proof": self._proof_of(bundle),
        }

    async def state(self, key: str, *, height: int | None = None) -> dict[str, Any]:
        """Returns what the state holds under a key, at the head or at a height; raises NotFound when that is nothing.

        A node proves the value of its head by the state tree. For another height, or without a node, the state is
        rebuilt from verified journals.
        """
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES:
            raise InvalidField(f"must have 1 to {MAX_KEY_BYTES} bytes", field="key", value=key)
        if height is None and isinstance(self._source, GatewayClient):
            at, root, data, proof = await self._proved(self._source, key)
        else:
            at, root, data, proof = await self._rebuilt(key, height)
        if data is None:
            says = f"the state of height {at} has no such key, which its root {root} proves"
            raise NotFound(says, field="key", value=key)
        value = document(decode_value(data))
        return {"key": key, "height": at, "state_root": root, "value": value, "value_cbor": data.hex(), "proof": proof}

    async def receipt(self, action_id: str) -> dict[str, Any]:
        """Returns the receipt of an action; ``status`` is ``pooled`` and nothing is proved while it only waits."""
        check_hash(action_id, field="action_id")
        height = await self._source.height_of_action(action_id)
        if height is None:
            return {"action_id": action_id, "status": "pooled", "proof": []}
        bundle = await self._bundle(str(height))
        block = bundle.block
        with _proving(block.height):
            data = await self._source.blob(block.receipts_root)
            receipts = decode(ReceiptList, data, limit=RECEIPTS_LIMIT).receipts
            found = next((item for item in receipts if item.action_id == action_id), None)
            if found is None:
                raise HashMismatch("the block that is named has no such action", field="receipt", value=action_id)
        proof = [*self._proof_of(bundle), "the receipt is in the list that the block names by its hash"]
        action = bundle.batch.actions[found.position] if found.position < len(bundle.batch.actions) else None
        if action is not None and action.action_id == action_id:
            proof.append("the action is at this position of the batch that the block names")
        return {"status": "committed", **document(found), "action": document(action), "proof": proof}

    async def snapshot(self, name: str) -> dict[str, Any]:
        """Returns the snapshot of a height, or the one whose manifest has this content id."""
        height = name
        if is_hash(name):
            with _proving(0):
                manifest = decode(SnapshotManifest, await self._source.blob(name), limit=MANIFEST_LIMIT)
            height = str(manifest.epoch)
        bundle = await self._bundle(height)
        block = bundle.block
        reference = block.snapshot_ref
        if reference is None or (is_hash(name) and name != reference):
            interval = self._genesis.parameters.snapshot_interval
            remedy = f"there is one every {interval} heights"
            raise NotFound("the block names no such snapshot", field="snapshot", value=name, remedy=remedy)
        data = await self._source.blob(reference)
        with _proving(block.height):
            manifest = load_manifest(reference, lambda _: data)
            for field, expected in (("epoch", block.height), ("state_root", block.state_root)):
                if getattr(manifest, field) != expected:
                    raise HashMismatch(f"must be {expected}", field=f"manifest.{field}", value=name)
        size = sum(chunk.size_bytes for chunk in manifest.chunks)
        proof = [*self._proof_of(bundle), "the manifest is the one that the block names by its hash"]
        return {"snapshot_ref": reference, **document(manifest), "size_bytes": size, "proof": proof}

    async def segment(self, content_hash: str) -> dict[str, Any]:
        """Returns the events of a journal segment, and the block that names it."""
        check_hash(content_hash, field="segment")
        data = await self._source.blob(content_hash)
        try:
            events = decode(EventSegment, data, limit=SEGMENT_LIMIT).events
        except MalformedEncoding as error:
            raise NotFound("is no journal segment", field="segment", value=content_hash) from error
        proof = ["the events hash to the id that was asked for"]
        answer = {"segment": content_hash, "size_bytes": len(data), "height": None}
        # A block is one tick of its world, so the events say themselves where to look for the block that names them.
        for bundle in await self._source.blocks(events[0].tick, limit=1) if events else ():
            if any(item.content_hash == content_hash for item in bundle.block.segments):
                await self._check(bundle)
                answer["height"] = bundle.block.height
                proof = [*self._proof_of(bundle), "the segment is one that the block names by its hash"]
        return {**answer, "events": document(events), "proof": proof}

    async def _proved(self, client: GatewayClient, key: str) -> tuple[int, str, bytes | None, list[str]]:
        answer = await client.state(key, proof=True)
        try:
            height, root = int(answer["height"]), str(answer["state_root"])
            encoded = bytes.fromhex(answer["proof"])
        except (KeyError, ValueError, TypeError) as error:
            says = "the node's answer has no proof"
            raise VerificationFailed(says, height=0, cause_code=MalformedEncoding.code, place="state") from error
        with _proving(height):
            data = verify_proof(root, key.encode(), decode(StateProof, encoded))
        if height == 0:
            expected, proof = genesis_state(self._genesis).root, ["the state is that of the genesis document"]
        else:
            bundle = await self._bundle(str(height))
            expected, proof = bundle.block.state_root, self._proof_of(bundle)
        if root != expected:
            says = f"the state root must be {expected}, the proof is for {root}"
            raise VerificationFailed(says, height=height, cause_code=HashMismatch.code, place="state_root")
        proof.append("a path through the state tree leads from the state root to the value")
        return height, root, data, proof

    async def _rebuilt(self, key: str, height: int | None) -> tuple[int, str, bytes | None, list[str]]:
        if height is None:
            tip = await self._source.tip()
            height = 0 if tip is None else tip.height
        tree = await state_at(self._source, self._genesis, height)
        return height, tree.root, tree.get(key.encode()), [
            f"the state of height {height} was rebuilt from journals that certified blocks name",
        ]  # fmt: skip

    async def _bundle(self, name: str) -> BlockBundle:
        """Returns a block that a quorum of a directory, proved from the genesis on, has committed."""
        if not is_hash(name) and not (name.isdecimal() and len(name) < 20):
            raise InvalidField("must be a height or a content id", field="id", value=name)
        bundle = await self._source.block(name)
        block = bundle.block
        asked = block_hash_of(block) if is_hash(name) else str(block.height)
        if name.lstrip("0") != asked.lstrip("0"):
            says = "another block was returned than was asked for"
            raise VerificationFailed(says, height=block.height, cause_code=HashMismatch.code, place="block")
        await self._check(bundle)
        return bundle

    async def _check(self, bundle: BlockBundle) -> None:
        epoch = bundle.block.directory_epoch
        if len(self._directories) < epoch:
            await self._prove_directories(epoch)
        with _proving(bundle.block.height):
            if not 1 <= epoch <= len(self._directories):
                raise NotFound("there is no such epoch", field="block.directory_epoch", value=epoch)
            check_alone(bundle, self._directories[epoch - 1])

    async def _prove_directories(self, last: int) -> None:
        found = [self._genesis.directory]
        for proposed in (await fetch_directories(self._source, last))[1:]:
            with _proving(0):
                check_next_directory(found[-1], proposed)
            found.append(proposed)
        self._directories = found

    def _proof_of(self, bundle: BlockBundle) -> list[str]:
        epoch, votes = bundle.block.directory_epoch, len(bundle.certificate.votes)
        return [
            f"{votes} validators of directory epoch {epoch}, a quorum, signed the block's hash",
            f"governance signed every directory from the genesis to epoch {epoch}",
        ]


async def check_trusted(source: WorldSource, trusted_genesis: str | None) -> Genesis:
    """Returns the genesis of a source; VerificationFailed when it is wrong or does not have the trusted hash."""
    genesis = await source.genesis()
    with _proving(0):
        check_genesis(genesis)
        found = genesis_hash(genesis)
        if trusted_genesis not in (None, found):
            raise HashMismatch(f"must be {trusted_genesis}", field="genesis", value=found)
    return genesis


@contextmanager
def _proving(height: int) -> Iterator[None]:
    """Turns what a failed check says into VerificationFailed; what is only missing stays an error of its own."""
    try:
        yield
    except VerificationFailed:
        raise
    except AgentWorldError as error:
        if is_missing(error) or error.retryable or isinstance(error, GatewayError):
            raise
        raise VerificationFailed(str(error), height=height, cause_code=error.code, place=error.field) from error

"""Replays a world from its genesis and trusts nothing but keys: every hash, signature, certificate and state root.

The blocks may come from any node. What they must agree with is the genesis document (pin its hash to leave nothing to
trust) and, through it, the governance keys, the directories they signed and the validators those directories name.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, HashMismatch
from agentworld_core.ledger.block import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis, genesis_hash
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.messages import BlockBundle, Genesis

BUNDLE_LIMIT = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """What a replay proved: heights 1 to ``height`` of the world of this genesis lead to ``state_root``."""

    world_id: str
    genesis_hash: str
    governance_keys: tuple[str, ...]
    height: int
    block_hash: str
    state_root: str
    epoch: int
    actions: int
    fetched_blocks: int
    stored_blocks: int

    def as_dict(self) -> dict[str, Any]:
        """The JSON form of the report."""
        return {**dataclasses.asdict(self), "governance_keys": list(self.governance_keys)}


class BundleStore:
    """Keeps fetched blocks in a folder of the verifier's own, one file a height, written whole or not at all."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, height: int) -> BlockBundle | None:
        """Returns the stored block of a height; damaged files count as absent and are fetched again."""
        try:
            return decode(BlockBundle, self._path(height).read_bytes(), limit=BUNDLE_LIMIT)
        except FileNotFoundError:
            return None
        except AgentWorldError:
            self._path(height).unlink(missing_ok=True)
            return None

    def put(self, bundle: BlockBundle) -> None:
        """Stores a block."""
        path = self._path(bundle.block.height)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            temporary.write_bytes(encode(bundle))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def _path(self, height: int) -> Path:
        return self._folder / f"{height:012d}.cbor"


class Verifier:
    """Verifies one world; ``verify`` may be called again to go on from where it stopped."""

    def __init__(self, genesis: Genesis, *, store: BundleStore, trusted_genesis: str | None = None):
        self.genesis_hash = genesis_hash(genesis)
        if trusted_genesis is not None and trusted_genesis != self.genesis_hash:
            raise HashMismatch(
                f"the node's genesis hashes to {self.genesis_hash}",
                field="genesis",
                value=trusted_genesis,
                remedy="ask a node of the world you trust, or correct the pinned hash",
            )
        self.genesis = genesis
        self.chain: ChainState = chain_from_genesis(genesis)
        self._store = store
        self._actions = 0
        self._fetched = 0
        self._stored = 0

    async def verify(
        self,
        client: GatewayClient,
        *,
        up_to: int | None = None,
        progress: Callable[[int, int], None] = lambda _done, _goal: None,
    ) -> VerificationReport:
        """Replays up to a height (default: the node's head) and returns what was proved.

        Raises VerificationFailed that names the first bad height and the check that failed. ``progress`` gets
        (height reached, height wanted).
        """
        head = await client.head()
        goal = up_to if up_to is not None else (head.height if head is not None else 0)
        while self.chain.height < goal:
            bundle = self._store.get(self.chain.height + 1)
            if bundle is not None:
                self._stored += self._take(bundle)
            elif not await self._fetch(client, goal, progress):
                raise VerificationFailed(
                    f"the node announces height {goal} but does not serve this block", height=self.chain.height + 1
                )
            progress(self.chain.height, goal)
        if head is not None and self.chain.height == head.height and head.state_root != self.chain.state_root:
            raise VerificationFailed(
                f"the announced state root {head.state_root} is not the replayed one {self.chain.state_root}",
                height=head.height,
            )
        return self.report()

    def report(self) -> VerificationReport:
        """Returns what has been proved so far."""
        directory = self.chain.directory_at(max(self.chain.height, 1))
        return VerificationReport(
            world_id=self.genesis.world_id,
            genesis_hash=self.genesis_hash,
            governance_keys=tuple(entry.key_id for entry in self.genesis.directory.governance),
            height=self.chain.height,
            block_hash=self.chain.block_hash,
            state_root=self.chain.state_root,
            epoch=directory.epoch,
            actions=self._actions,
            fetched_blocks=self._fetched,
            stored_blocks=self._stored,
        )

    async def _fetch(self, client: GatewayClient, goal: int, progress: Callable[[int, int], None]) -> int:
        count = 0
        for bundle in await client.blocks(self.chain.height + 1):
            if self.chain.height >= goal:
                break
            count += self._take(bundle)
            self._store.put(bundle)
            progress(self.chain.height, goal)
        self._fetched += count
        return count

    def _take(self, bundle: BlockBundle) -> int:
        try:
            self.chain = check_bundle(self.chain, bundle)
        except AgentWorldError as error:
            raise VerificationFailed(str(error), height=self.chain.height + 1, cause_code=error.code) from error
        self._actions += len(bundle.batch.actions)
        return 1

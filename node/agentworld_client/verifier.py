"""Replays a world from its genesis and trusts nothing but keys: every hash, signature, certificate and state root.

The blocks may come from any node. What they must agree with is the genesis document (pin its hash to leave nothing to
trust) and, through it, the governance keys, the directories they signed and the validators those directories name.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField, NotAvailable
from agentworld_core.ledger.block import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis, genesis_hash
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.messages import BlockBundle, Genesis, WorldHeadAnnounce
from agentworld_core.world.modules.sandbox import Sandbox, SandboxFault

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
    """Keeps fetched blocks in a folder of the verifier's own, one file a height, written whole or not at all.

    Nothing that is stored is trusted: it is verified like what is fetched, and forgotten when it is wrong. Raises
    InvalidField when the folder cannot be used.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        with _typed(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, height: int) -> BlockBundle | None:
        """Returns the stored block of a height; damaged files count as absent and are fetched again."""
        try:
            with _typed(self._folder):
                data = self._path(height).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return decode(BlockBundle, data, limit=BUNDLE_LIMIT)
        except AgentWorldError:
            self.forget(height)
            return None

    def put(self, bundle: BlockBundle) -> None:
        """Stores a block."""
        path = self._path(bundle.block.height)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with _typed(self._folder):
            try:
                temporary.write_bytes(encode(bundle))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def forget(self, height: int) -> None:
        """Removes the block of a height, if there is one."""
        with _typed(self._folder):
            self._path(height).unlink(missing_ok=True)

    def _path(self, height: int) -> Path:
        return self._folder / f"{height:012d}.cbor"


class Verifier:
    """Verifies one world; ``verify`` may be called again to go on from where it stopped.

    ``sandbox`` runs the modules of the world; where it has some, ``verify`` raises SandboxFault without one.
    """

    def __init__(
        self,
        genesis: Genesis,
        *,
        store: BundleStore,
        trusted_genesis: str | None = None,
        sandbox: Sandbox | None = None,
    ):
        self.genesis_hash = genesis_hash(genesis)
        if trusted_genesis is not None and trusted_genesis != self.genesis_hash:
            raise VerificationFailed(
                f"the node's genesis hashes to {self.genesis_hash}, not to the trusted {trusted_genesis}",
                height=0,
                cause_code=HashMismatch.code,
            )
        self.genesis = genesis
        try:
            self.chain: ChainState = chain_from_genesis(genesis, sandbox=sandbox)
        except AgentWorldError as error:
            raise VerificationFailed(f"the genesis is wrong: {error}", height=0, cause_code=error.code) from error
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
        announced = head.height if head is not None else 0
        goal = up_to if up_to is not None else announced
        if goal > max(announced, self.chain.height):
            raise NotAvailable(
                f"the node is at height {announced}", field="height", value=goal, remedy="try again later"
            )
        while self.chain.height < goal:
            if not self._take_stored() and not await self._fetch(client, goal, progress):
                raise VerificationFailed(
                    f"the node announces height {announced} but does not serve this block",
                    height=self.chain.height + 1,
                )
            progress(self.chain.height, goal)
        if head is not None and self.chain.height == head.height:
            self._compare(head)
        return self.report()

    def _compare(self, head: WorldHeadAnnounce) -> None:
        for what, stated, replayed in (
            ("block", head.block_hash, self.chain.block_hash),
            ("state root", head.state_root, self.chain.state_root),
        ):
            if stated != replayed:
                says = f"the announced {what} {stated} is not the replayed one {replayed}"
                raise VerificationFailed(says, height=head.height, cause_code=HashMismatch.code)

    def _take_stored(self) -> bool:
        """Goes on with the next stored block; one that is wrong was damaged or is another world's, and is forgotten."""
        height = self.chain.height + 1
        bundle = self._store.get(height)
        if bundle is None:
            return False
        try:
            self._take(bundle)
        except VerificationFailed:
            self._store.forget(height)
            return False
        self._stored += 1
        return True

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
            self._take(bundle)
            self._store.put(bundle)
            count += 1
            progress(self.chain.height, goal)
        self._fetched += count
        return count

    def _take(self, bundle: BlockBundle) -> None:
        try:
            self.chain = check_bundle(self.chain, bundle)
        except SandboxFault:
            # This machine cannot run the world's modules, which proves nothing against the node.
            raise
        except AgentWorldError as error:
            raise VerificationFailed(str(error), height=self.chain.height + 1, cause_code=error.code) from error
        self._actions += len(bundle.batch.actions)


@contextmanager
def _typed(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into an error that names the folder; a missing file stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidField(f"cannot be used: {error.strerror}", field="store", value=folder) from error

"""Verifies a world from its genesis and trusts nothing but keys: every hash, link, signature and certificate.

With replay every batch is executed again too. The blocks may come from any node, from a data folder or an archive. What
they must agree with is the genesis document (pin its hash to leave nothing to trust) and, through it, the governance
keys, the directories they signed and the validators those directories name.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentworld_client.checkpoint import chain_before
from agentworld_client.errors import VerificationFailed
from agentworld_client.source import Tip, WorldSource
from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError, HashMismatch, InvalidField, NotAvailable
from agentworld_core.ledger.block import Execution, HeaderInput, execute
from agentworld_core.ledger.chain import ChainLinks, ChainState
from agentworld_core.ledger.difference import (
    Difference,
    compare_events,
    compare_receipts,
    differing_segment,
    earliest,
    places_of,
)
from agentworld_core.ledger.errors import ExecutionMismatch
from agentworld_core.ledger.genesis import chain_from_genesis, genesis_hash
from agentworld_core.ledger.segments import read_events
from agentworld_core.ledger.validate import check_links, replay_bundle
from agentworld_core.messages import BlockBundle, Genesis, JournalSegmentRef, ReceiptList
from agentworld_core.world.modules.sandbox import Sandbox, SandboxFault

BUNDLE_LIMIT = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class VerificationReport:
    """What was proved: heights ``from_height`` to ``height`` of the world of this genesis lead to ``state_root``.

    ``replayed`` says whether they were executed again, or only hashes, links, signatures and certificates checked.
    ``signers`` are the validators whose votes decided the last block that was checked, members of ``epoch``.
    """

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
    signers: tuple[str, ...] = ()
    from_height: int = 1
    replayed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The JSON form of the report."""
        lists = {"governance_keys": list(self.governance_keys), "signers": list(self.signers)}
        return {**dataclasses.asdict(self), **lists}


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
        with _typed(self._folder):
            try:
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


Observer = Callable[[BlockBundle, Execution], Awaitable[None]]
"""Is handed each block that has been replayed, in order, with its execution."""


class Verifier:
    """Verifies one world; ``verify`` may be called again to go on from where it stopped.

    With ``replay`` every batch is executed again and every root compared; without it hashes, links, signatures and
    certificates are checked, and the roots are the word of the quorum that signed them. ``sandbox`` runs the
    modules of the world; where it has some, a replay raises SandboxFault without one.
    """

    def __init__(
        self,
        genesis: Genesis,
        *,
        replay: bool = False,
        store: BundleStore | None = None,
        trusted_genesis: str | None = None,
        sandbox: Sandbox | None = None,
    ):
        self.genesis_hash = genesis_hash(genesis)
        if trusted_genesis is not None and trusted_genesis != self.genesis_hash:
            raise VerificationFailed(
                f"the genesis there hashes to {self.genesis_hash}, not to the trusted {trusted_genesis}",
                height=0,
                cause_code=HashMismatch.code,
                place="genesis",
            )
        self.genesis = genesis
        try:
            self.chain: ChainLinks = chain_from_genesis(genesis, sandbox=sandbox)
        except AgentWorldError as error:
            says = f"the genesis is wrong: {error}"
            raise VerificationFailed(says, height=0, cause_code=error.code, place="genesis") from error
        self.replay = replay
        self._sandbox = sandbox
        self._store = store
        self._observer: Observer | None = None
        self._first = 1
        self._actions = 0
        self._fetched = 0
        self._stored = 0
        self._signers: tuple[str, ...] = ()

    def observe(self, observer: Observer) -> None:
        """Hands each block that is replayed from now on, with its execution, to the observer."""
        self._observer = observer

    async def verify(
        self,
        source: WorldSource,
        *,
        start: int = 1,
        up_to: int | None = None,
        progress: Callable[[int, int], None] = lambda _done, _goal: None,
    ) -> VerificationReport:
        """Verifies up to a height (default: the newest) and returns what was proved.

        ``start`` is the first height that must be checked: what is before it may be left out where a snapshot, itself
        checked, allows that. Raises VerificationFailed that names the first bad height and the check that failed.
        ``progress`` gets (height reached, height wanted).
        """
        tip = await source.tip()
        announced = tip.height if tip is not None else 0
        goal = up_to if up_to is not None else announced
        if goal > max(announced, self.chain.height):
            raise NotAvailable(
                f"the newest height is {announced}", field="height", value=goal, remedy="try again later"
            )
        if start > max(goal, 1):
            raise InvalidField(f"must not be above {goal}, the last height to verify", field="from", value=start)
        if self.chain.height == 0 and start > 1:
            chain = await chain_before(source, self.genesis, start - 1)
            self.chain = dataclasses.replace(chain, sandbox=self._sandbox)
            self._first = self.chain.height + 1
        while self.chain.height < goal:
            if not await self._take_stored(source) and not await self._fetch(source, goal, progress):
                says = f"height {announced} is announced, but this block is not served"
                raise VerificationFailed(says, height=self.chain.height + 1, place="blocks")
            progress(self.chain.height, goal)
        if tip is not None and self.chain.height == tip.height:
            self.check_tip(tip)
        return self.report()

    def check_tip(self, tip: Tip) -> None:
        """Raises VerificationFailed unless what a source claims of the newest height is what was verified."""
        for what, stated, found in (
            ("block", tip.block_hash, self.chain.block_hash),
            ("state root", tip.state_root, self.chain.state_root),
        ):
            if stated != found:
                says = f"the announced {what} {stated} is not the {self._verb} one {found}"
                raise VerificationFailed(says, height=tip.height, cause_code=HashMismatch.code, place="head")

    @property
    def _verb(self) -> str:
        return "replayed" if self.replay else "verified"

    async def _take_stored(self, source: WorldSource) -> bool:
        """Goes on with the next stored block; one that is wrong was damaged or is another world's, and is forgotten."""
        height = self.chain.height + 1
        bundle = self._store.get(height) if self._store is not None else None
        if bundle is None:
            return False
        try:
            await self._take(bundle, source)
        except VerificationFailed:
            if self._store is not None:
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
            signers=self._signers,
            from_height=self._first,
            replayed=self.replay,
        )

    async def _fetch(self, source: WorldSource, goal: int, progress: Callable[[int, int], None]) -> int:
        count = 0
        for bundle in await source.blocks(self.chain.height + 1):
            if self.chain.height >= goal:
                break
            await self._take(bundle, source)
            if self._store is not None:
                self._store.put(bundle)
            count += 1
            progress(self.chain.height, goal)
        self._fetched += count
        return count

    async def _take(self, bundle: BlockBundle, source: WorldSource) -> None:
        chain, execution = self.chain, None
        try:
            if self.replay and isinstance(chain, ChainState):
                execution = replay_bundle(chain, bundle)
                self.chain = execution.chain_after(bundle.block)
            else:
                self.chain = check_links(chain, bundle)
        except SandboxFault:
            # This machine cannot run the world's modules, which proves nothing against the node.
            raise
        except AgentWorldError as error:
            difference = None
            if isinstance(error, ExecutionMismatch) and isinstance(chain, ChainState):
                difference = await find_difference(chain, bundle, source)
            raise VerificationFailed(
                str(error),
                height=chain.height + 1,
                cause_code=error.code,
                place=error.field,
                difference=difference,
            ) from error
        if execution is not None and self._observer is not None:
            await self._observer(bundle, execution)
        self._actions += len(bundle.batch.actions)
        self._signers = tuple(vote.validator_id for vote in bundle.certificate.votes)


async def find_difference(chain: ChainState, bundle: BlockBundle, source: WorldSource) -> Difference | None:
    """Returns the first action of a block whose claimed result is not that of its execution.

    None when the source does not serve the block's journal and receipts as the block names them, or when they are right
    and only the block is not.
    """
    block = bundle.block
    execution = execute(chain, bundle.batch, HeaderInput.of(block), action_root=block.action_root)
    event = receipt = None
    try:
        index = differing_segment(block.segments, execution.block.segments)
        if index is not None:
            stated = read_events(block.segments[index : index + 1], await _blobs(source, block.segments, index))
            executed = read_events(execution.block.segments[index : index + 1], execution.blobs.__getitem__)
            event = compare_events(stated, executed, places=places_of(bundle.batch))
        if block.receipts_root != execution.block.receipts_root:
            data = await source.blob(block.receipts_root)
            receipt = compare_receipts(decode(ReceiptList, data, limit=BUNDLE_LIMIT).receipts, execution.receipts)
    except AgentWorldError:
        # Whoever makes a wrong block need not say what it believes; the mismatch itself is told all the same.
        return None
    return earliest(event, receipt, execution.receipts)


async def _blobs(source: WorldSource, segments: Sequence[JournalSegmentRef], index: int) -> Callable[[str], bytes]:
    """Returns what gives the bytes of the segment of an index, where there is one."""
    found = {item.content_hash: await source.blob(item.content_hash) for item in segments[index : index + 1]}
    return found.__getitem__


@contextmanager
def _typed(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into an error that names the folder."""
    try:
        yield
    except OSError as error:
        raise InvalidField(f"cannot be used: {error.strerror}", field="store", value=folder) from error

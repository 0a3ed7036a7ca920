"""Scaling: a block costs what it changes, whatever the state holds and however long the chain is."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.validate import replay_bundle
from agentworld_core.messages import ActionEnvelope, Genesis, Parameters
from agentworld_node.ledger import Ledger
from tests.bench.harness import Case, LeftOut, Setting, cpu, wall
from tests.bench.material import VALIDATOR, moves, next_block, populated, unsynced
from tests.unit.node.material import make_genesis

BLOCK = 64
BLOCKS = 8
PARAMETERS = Parameters(
    block_interval_ms=0,
    max_batch_actions=512,
    max_batch_bytes=512 * 1024,
    journal_events_per_segment=256,
    snapshot_interval=64,
    leaseless=True,
)


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields the cost of a block by the size of the state, and by the height."""
    genesis = make_genesis((VALIDATOR,), PARAMETERS)
    few, many = setting.size(1_000, 100), setting.size(1_000_000, 1_000)
    small, large = _Growing(genesis, few), _Growing(genesis, many)
    yield Case(
        id="scale",
        case=f"a block of {BLOCK} actions, {many:,} objects",
        peer=f"{few:,} objects",
        ours=large.blocks,
        theirs=small.blocks,
        goal=1.3,
        kind="cost",
        check=large.wrong,
    )
    del small, large
    low, high = 100, setting.size(4_000, 200)
    with Chain(setting.folder / "low", genesis, low) as short, Chain(setting.folder / "high", genesis, high) as long:
        yield Case(
            id="scale",
            case=f"a committed block at height {high:,}",
            peer=f"at height {low:,}",
            ours=long.blocks,
            theirs=short.blocks,
            goal=1.3,
            kind="cost",
            check=long.wrong,
        )


class _Growing:
    """A chain over a state with so many objects; makes blocks that all change as much."""

    def __init__(self, genesis: Genesis, objects: int):
        self._first = populated(chain_from_genesis(genesis), objects)
        self._chain = self._first
        self._nonces = itertools.count(1, BLOCKS * BLOCK)

    def blocks(self) -> float:
        actions = moves(BLOCK * BLOCKS, first_nonce=next(self._nonces))
        batches = [actions[start : start + BLOCK] for start in range(0, len(actions), BLOCK)]
        return cpu(lambda: self._make(batches), items=BLOCKS)

    def _make(self, batches: Sequence[Sequence[ActionEnvelope]]) -> None:
        for batch in batches:
            bundle, execution = next_block(self._chain, batch)
            assert all(receipt.ok for receipt in execution.receipts)
            self._chain = execution.chain_after(bundle.block)

    def wrong(self) -> str | None:
        """Judges one more block as a validator would."""
        last: ChainState = self._chain
        bundle, execution = next_block(last, moves(BLOCK, first_nonce=next(self._nonces)))
        same = replay_bundle(last, bundle).tree.root == execution.tree.root
        return None if same else "a block does not replay to its state"


class Chain:
    """A ledger on the disk with so many blocks, that goes on from there."""

    AT_ONCE = 1_000

    def __init__(self, folder: Path, genesis: Genesis, height: int):
        self._ledger = Ledger.open(folder, genesis)
        self._loop = asyncio.new_event_loop()
        self._nonces = itertools.count(1, max(BLOCKS * BLOCK, self.AT_ONCE))
        self.grow(height)

    @property
    def height(self) -> int:
        """The height of its last block."""
        return self._ledger.height

    def grow(self, height: int) -> None:
        """Goes on to a height with blocks of one action, and does not wait for the disk."""
        # No actor is registered: the moves are refused, which is an event, a receipt and a nonce all the same.
        with unsynced():
            while (missing := height - self.height) > 0:
                actions = moves(min(missing, self.AT_ONCE), first_nonce=next(self._nonces))
                self._loop.run_until_complete(self._apply([[action] for action in actions]))

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._ledger.settle())
        self._loop.close()
        self._ledger.close()

    async def _apply(self, batches: Sequence[Sequence[ActionEnvelope]]) -> None:
        for batch in batches:
            bundle, execution = next_block(self._ledger.chain, batch)
            await self._ledger.apply(bundle, execution=execution)

    def blocks(self) -> float:
        actions = moves(BLOCK * BLOCKS, first_nonce=next(self._nonces))
        batches = [actions[start : start + BLOCK] for start in range(0, len(actions), BLOCK)]
        return wall(lambda: self._loop.run_until_complete(self._apply(batches)), items=BLOCKS)

    def wrong(self) -> str | None:
        ledger = self._ledger
        found = ledger.bundle(ledger.height)
        return None if found is not None and found.block.state_root == ledger.chain.state_root else "the head is lost"

"""The first divergent action of two long chains: what is read of a source, against the logarithm of their actions.

The blocks are one executed block under other heights and links, made when they are asked for, so that chains can be as
long as one likes. Comparing two sources looks at no signature before it has found where they part.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random

from agentworld_client.divergence import compare
from agentworld_client.source import Tip
from agentworld_core.codec import encode
from agentworld_core.errors import NotFound
from agentworld_core.ledger.block import Execution, block_hash_of
from agentworld_core.ledger.genesis import chain_from_genesis, genesis_hash
from agentworld_core.ledger.segments import cut_events
from agentworld_core.messages import BlockBundle, Directory, Genesis, Parameters
from tests.bench.harness import Case, Setting
from tests.bench.material import VALIDATOR, moves, next_block, populated
from tests.unit.node.material import make_genesis

SEED = 20_261_124
ACTIONS = 64
PER_SEGMENT = 16
PARAMETERS = Parameters(
    block_interval_ms=0,
    max_batch_actions=512,
    max_batch_bytes=512 * 1024,
    journal_events_per_segment=PER_SEGMENT,
    snapshot_interval=64,
    leaseless=True,
)


def divergence_case(setting: Setting) -> Case:
    """Returns the search for an action that was planted anywhere in a chain of so many heights."""
    heights = setting.size(100_000, 100)
    shared = _Shared(heights)
    rng = random.Random(SEED)
    wrong: list[str] = []

    def reads() -> float:
        parted, position = rng.randint(1, heights), rng.randrange(ACTIONS)
        one, other = _Source(shared), _Source(shared, parted=parted, position=position)
        found = asyncio.run(compare(one, other)).divergence
        if found is None or found.difference is None or (found.height, found.difference.position) != (parted, position):
            wrong.append(f"planted at height {parted}, position {position}; found {found}")
        return float(max(one.reads, other.reads))

    return Case(
        id="B14",
        case=f"the first divergent of {heights * ACTIONS:,} actions: reads of a source",
        peer="log2 of the actions, rounded up",
        ours=reads,
        theirs=lambda: float((heights * ACTIONS - 1).bit_length()),
        goal=1.0,
        kind="cost",
        unit="reads",
        check=lambda: wrong[0] if wrong else None,
    )


class _Shared:
    """What both chains have in common: the genesis, one executed block, and the hashes of all blocks."""

    def __init__(self, heights: int):
        self.genesis = make_genesis((VALIDATOR,), PARAMETERS)
        chain = populated(chain_from_genesis(self.genesis), 16)
        made: tuple[BlockBundle, Execution] = next_block(chain, moves(ACTIONS))
        self.bundle, self.execution = made
        self.hashes = [genesis_hash(self.genesis)]
        for height in range(1, heights + 1):
            self.hashes.append(block_hash_of(self.at(height).block))

    def at(self, height: int) -> BlockBundle:
        """The block of a height in the chain that is right."""
        block = dataclasses.replace(self.bundle.block, height=height, prev_block_hash=self.hashes[height - 1])
        return dataclasses.replace(self.bundle, block=block)


class _Source:
    """One of the chains, which from a height on has another result of one action; counts what is read of it."""

    def __init__(self, shared: _Shared, *, parted: int | None = None, position: int = 0):
        self._shared = shared
        self._parted = parted
        events = [
            dataclasses.replace(event, kind="agent.strayed")
            if event.caused_by == shared.bundle.batch.actions[position].action_id
            else event
            for event in shared.execution.events
        ]
        journal = cut_events(shared.execution.events if parted is None else events, PER_SEGMENT)
        self._journal = journal
        self._blobs = {**shared.execution.blobs, **journal.blobs}
        self.reads = 0

    async def genesis(self) -> Genesis:
        return self._shared.genesis

    async def tip(self) -> Tip:
        height = len(self._shared.hashes) - 1
        return Tip(height, self._shared.hashes[height], self._shared.bundle.block.state_root)

    async def blocks(self, start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
        assert limit == 1
        self.reads += 1
        bundle = self._shared.at(start)
        if self._parted is not None and start >= self._parted:
            block = dataclasses.replace(
                bundle.block,
                event_root=self._journal.event_root,
                journal_ref=self._journal.journal_ref,
                segments=self._journal.segments,
            )
            bundle = dataclasses.replace(bundle, block=block)
        # As it would come from a disk or a peer.
        assert encode(bundle)
        return (bundle,)

    async def block(self, block: str | int) -> BlockBundle:
        return (await self.blocks(int(block), limit=1))[0]

    async def height_of_action(self, action_id: str) -> int | None:
        raise NotFound("no search needs it", field="action_id", value=action_id)

    async def directory(self, epoch: int | None = None) -> Directory:
        return self._shared.genesis.directory

    async def blob(self, content_hash: str) -> bytes:
        self.reads += 1
        return self._blobs[content_hash]

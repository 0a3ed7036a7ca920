"""The state of a world at any height, rebuilt from journals that are checked against the blocks that name them.

The blocks' hashes, links, signatures and certificates are checked, and each journal must lead to the state root that
the quorum signed. Nothing is taken from the source on trust.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable

from agentworld_client.checkpoint import chain_before
from agentworld_client.errors import VerificationFailed
from agentworld_client.source import WorldSource
from agentworld_core.errors import AgentWorldError, HashMismatch, NotAvailable
from agentworld_core.ledger.chain import ChainState, with_state
from agentworld_core.ledger.segments import event_root_of, read_events
from agentworld_core.ledger.validate import check_links
from agentworld_core.messages import BlockBundle, Genesis, WorldEvent
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.tree import Tree


@dataclasses.dataclass(frozen=True)
class Step:
    """A verified block with its events, the state before it, and the chain after it with its state."""

    bundle: BlockBundle
    events: tuple[WorldEvent, ...]
    before: Tree
    chain: ChainState

    @property
    def after(self) -> Tree:
        """The state after the block."""
        return self.chain.tree


async def walk(source: WorldSource, chain: ChainState, up_to: int) -> AsyncIterator[Step]:
    """Yields every height after the chain's head up to the given one.

    Raises VerificationFailed that names the first bad height, NotAvailable when the source ends before.
    """
    while chain.height < up_to:
        bundles = await source.blocks(chain.height + 1, limit=min(64, up_to - chain.height))
        if not bundles:
            says = f"the newest height is {chain.height}"
            raise NotAvailable(says, field="height", value=up_to, remedy="try again later")
        for bundle in bundles:
            try:
                links = check_links(chain, bundle)
                events = await fetch_events(source, bundle)
                after = replay_events(chain.tree, events)
                _check_root(after, bundle)
            except AgentWorldError as error:
                height = bundle.block.height
                raise VerificationFailed(str(error), height=height, cause_code=error.code, place=error.field) from error
            before, chain = chain.tree, with_state(links, after, since=chain.snapshot_tree)
            yield Step(bundle, events, before, chain)


async def state_at(
    source: WorldSource,
    genesis: Genesis,
    height: int,
    *,
    progress: Callable[[int, int], None] = lambda _done, _goal: None,
) -> Tree:
    """Returns the verified state after a height; the same errors as ``walk``."""
    chain = await chain_before(source, genesis, height)
    tree = chain.tree
    async for step in walk(source, chain, height):
        tree = step.after
        progress(step.bundle.block.height, height)
    return tree


async def fetch_events(source: WorldSource, bundle: BlockBundle) -> tuple[WorldEvent, ...]:
    """Returns the events of a block; raises a typed error unless they are those that the block names."""
    segments = bundle.block.segments
    blobs = {segment.content_hash: await source.blob(segment.content_hash) for segment in segments}
    events = read_events(segments, blobs.__getitem__)
    if event_root_of(events) != bundle.block.event_root:
        says = "the journal is not the one that the block names"
        raise HashMismatch(says, field="block.event_root", value=bundle.block.event_root)
    return events


def _check_root(tree: Tree, bundle: BlockBundle) -> None:
    if tree.root != bundle.block.state_root:
        says = f"the journal leads to {tree.root}"
        raise HashMismatch(says, field="block.state_root", value=bundle.block.state_root)

"""Where two sources of one world part: the first height, found by bisection, and the first action that differs there.

No source is believed. Each block names the one before it by hash, so the blocks of one height being the same means that
all before are; and what is reported is shown by the two blocks themselves, which both follow the same parent. For that
some log2(height) blocks of each side are read, and of the block in question one journal segment and the receipts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from agentworld_client.checkpoint import chain_before
from agentworld_client.errors import VerificationFailed
from agentworld_client.history import walk
from agentworld_client.source import WorldSource
from agentworld_client.verifier import BUNDLE_LIMIT, find_difference
from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError, HashMismatch, NotAvailable, StateMismatch
from agentworld_core.ledger.bisection import Bisection
from agentworld_core.ledger.block import block_hash_of
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.difference import (
    Difference,
    compare_events,
    compare_receipts,
    differing_segment,
    earliest,
    places_of,
)
from agentworld_core.ledger.errors import ExecutionMismatch
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.segments import read_events
from agentworld_core.ledger.validate import replay_bundle
from agentworld_core.messages import BlockBundle, Receipt, ReceiptList, WorldBlock, WorldEvent
from agentworld_core.world.modules.sandbox import Sandbox, SandboxFault

SIDES = ("one says", "the other says")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What executing a block again says of it: right, or what is wrong and which action makes it so."""

    right: bool
    error: str = ""
    difference: Difference | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
    """The first height at which two sources have another block on top of the same parent.

    ``fields`` are those of the block that differ, ``position`` and ``actions`` the first place at which the batches do
    and the ids of the actions there (-1 and empty where the batches are the same; an id is empty where a batch ends).
    ``difference`` is the first action of one and the same batch with another result, as far as the sources serve it.
    ``verdicts`` are what executing both blocks says, when that was asked for.
    """

    height: int
    parent_hash: str
    block_hashes: tuple[str, str]
    state_roots: tuple[str, str]
    fields: tuple[str, ...]
    position: int = -1
    actions: tuple[str, ...] = ()
    difference: Difference | None = None
    verdicts: tuple[Verdict, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "difference": _document(self.difference),
            "verdicts": [
                {"right": item.right, "error": item.error, "difference": _document(item.difference)}
                for item in self.verdicts
            ],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """What comparing two sources came to: they agree up to ``agreed``; ``compared`` is the last height that both have.

    ``probes`` counts the heights whose blocks were compared.
    """

    agreed: int
    compared: int
    probes: int
    divergence: Divergence | None = None


async def compare(
    one: WorldSource,
    other: WorldSource,
    *,
    replay: bool = False,
    sandbox: Sandbox | None = None,
    up_to: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _goal: None,
) -> Comparison:
    """Returns where two sources of a world part, or that they agree up to the last height that both have.

    With ``replay`` the state before that height is rebuilt from the newest snapshot that both share, and each of the
    two blocks is judged by executing it; ``sandbox`` runs the world's modules. Raises VerificationFailed for a source
    whose blocks do not follow each other or whose genesis is another one, NotAvailable when ``up_to`` is not reached.
    """
    genesis = await one.genesis()
    if genesis_hash(genesis) != genesis_hash(await other.genesis()):
        says = "the sources begin with another genesis document, so they are of two worlds"
        raise VerificationFailed(says, height=0, cause_code=HashMismatch.code, place="genesis")
    top = await _common_height(one, other, up_to)
    probing = _Probing(one, other)
    if top == 0 or await probing.same(top):
        return Comparison(agreed=top, compared=top, probes=probing.count)
    search = Bisection(agreed=0, parted=top)
    while (height := search.probe) is not None:
        search = search.learn(height, same=await probing.same(height))
        progress(top - (search.parted - search.agreed), top)
    parent = genesis_hash(genesis) if search.agreed == 0 else probing.agreed_hash
    height = search.parted
    pair = probing.blocks(height)
    for bundle in pair:
        if bundle.block.prev_block_hash != parent:
            says = f"the source's block does not follow {parent}, which it serves as the one before"
            raise _inconsistent(says, height, "block.prev_block_hash")
    divergence = await _describe(pair, one, other)
    if replay:
        chain = await _shared_chain(one, other, height - 1)
        chain = dataclasses.replace(chain, sandbox=sandbox)
        verdicts = (await _judge(chain, pair[0], one), await _judge(chain, pair[1], other))
        divergence = dataclasses.replace(divergence, verdicts=verdicts)
    return Comparison(agreed=search.agreed, compared=top, probes=probing.count, divergence=divergence)


class _Probing:
    """Compares the blocks of a height and keeps what the search will need at its end."""

    def __init__(self, one: WorldSource, other: WorldSource):
        self._sources = (one, other)
        self._parted: dict[int, tuple[BlockBundle, BlockBundle]] = {}
        self.agreed_hash = ""
        self.count = 0

    async def same(self, height: int) -> bool:
        """True when both sources have the same block at a height."""
        self.count += 1
        pair = (await _block(self._sources[0], height), await _block(self._sources[1], height))
        first, second = (block_hash_of(bundle.block) for bundle in pair)
        if first != second:
            self._parted = {height: pair}
            return False
        self.agreed_hash = first
        return True

    def blocks(self, height: int) -> tuple[BlockBundle, BlockBundle]:
        """Returns the blocks of the last height that was found to differ."""
        return self._parted[height]


async def _common_height(one: WorldSource, other: WorldSource, up_to: int | None) -> int:
    tips = [await source.tip() for source in (one, other)]
    common = min(0 if tip is None else tip.height for tip in tips)
    if up_to is not None and up_to > common:
        says = f"the sources have blocks up to {common} in common"
        raise NotAvailable(says, field="height", value=up_to, remedy="try again later")
    return common if up_to is None else up_to


async def _block(source: WorldSource, height: int) -> BlockBundle:
    found = await source.blocks(height, limit=1)
    if not found:
        raise _inconsistent("the source announces a later height, but does not serve this block", height, "blocks")
    if found[0].block.height != height:
        raise _inconsistent(f"the source serves block {found[0].block.height} instead", height, "block.height")
    return found[0]


def _inconsistent(message: str, height: int, place: str) -> VerificationFailed:
    return VerificationFailed(message, height=height, cause_code=StateMismatch.code, place=place)


async def _describe(pair: tuple[BlockBundle, BlockBundle], one: WorldSource, other: WorldSource) -> Divergence:
    """Returns what differs between two blocks of one height."""
    first, second = pair[0].block, pair[1].block
    fields = tuple(
        field.name
        for field in dataclasses.fields(WorldBlock)
        if getattr(first, field.name) != getattr(second, field.name)
    )
    found = Divergence(
        height=first.height,
        parent_hash=first.prev_block_hash,
        block_hashes=(block_hash_of(first), block_hash_of(second)),
        state_roots=(first.state_root, second.state_root),
        fields=fields,
    )
    ids = [[action.action_id for action in bundle.batch.actions] for bundle in pair]
    for position, actions in enumerate(zip_longest(*ids, fillvalue="")):
        if len(set(actions)) > 1:
            return dataclasses.replace(found, position=position, actions=actions)
    return dataclasses.replace(found, difference=await _difference(pair, one, other))


async def _difference(pair: tuple[BlockBundle, BlockBundle], one: WorldSource, other: WorldSource) -> Difference | None:
    """Returns the first action of the same batch with another result; None where the sources do not show it."""
    first, second = pair[0].block, pair[1].block
    event = receipt = None
    receipts: tuple[Receipt, ...] = ()
    index = differing_segment(first.segments, second.segments)
    try:
        if index is not None:
            events = [await _segment(source, bundle, index) for source, bundle in zip((one, other), pair, strict=True)]
            event = compare_events(*events, places=places_of(pair[0].batch))
        if first.receipts_root != second.receipts_root:
            claimed = await _receipts(one, pair[0])
            receipts = await _receipts(other, pair[1])
            receipt = compare_receipts(claimed, receipts)
    except AgentWorldError:
        # Whoever departs need not say what it believes: that the blocks differ is told all the same.
        return None
    found = earliest(event, receipt, receipts)
    return None if found is None else dataclasses.replace(found, sides=SIDES)


async def _segment(source: WorldSource, bundle: BlockBundle, index: int) -> tuple[WorldEvent, ...]:
    segments = bundle.block.segments[index : index + 1]
    # A source that reads blobs with their block has passed on to others since.
    await source.blocks(bundle.block.height, limit=1)
    blobs = {segment.content_hash: await source.blob(segment.content_hash) for segment in segments}
    return read_events(segments, blobs.__getitem__)


async def _receipts(source: WorldSource, bundle: BlockBundle) -> tuple[Receipt, ...]:
    return decode(ReceiptList, await source.blob(bundle.block.receipts_root), limit=BUNDLE_LIMIT).receipts


async def _shared_chain(one: WorldSource, other: WorldSource, height: int) -> ChainState:
    """Returns the verified chain after a height at which both agree: from the one, or where that has gaps the other."""
    try:
        return await _chain_at(one, height)
    except AgentWorldError:
        return await _chain_at(other, height)


async def _chain_at(source: WorldSource, height: int) -> ChainState:
    """Returns the verified chain after a height, with its state."""
    chain = await chain_before(source, await source.genesis(), height)
    async for step in walk(source, chain, height):
        chain = step.chain
    return chain


async def _judge(chain: ChainState, bundle: BlockBundle, source: WorldSource) -> Verdict:
    try:
        replay_bundle(chain, bundle)
    except SandboxFault:
        raise
    except AgentWorldError as error:
        difference = None
        if isinstance(error, ExecutionMismatch):
            difference = await find_difference(chain, bundle, source)
        return Verdict(right=False, error=str(error), difference=difference)
    return Verdict(right=True)


def _document(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else difference.as_dict()

"""A committed chain as a source in memory, which a test may change, and blocks with forged results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from agentworld_client.source import Tip
from agentworld_core.errors import NotFound
from agentworld_core.ledger.block import block_hash_of, execute
from agentworld_core.ledger.segments import cut_events, receipts_blob
from agentworld_core.membership.builder import Changes
from agentworld_core.messages import ActionEnvelope, BlockBundle, Directory, Genesis, Receipt, WorldEvent
from tests.unit.core.ledger.chains import PARAMETERS, Chain, header, make_batch, make_certificate, resign
from tests.unit.core.membership.worlds import successor
from tests.unit.core.world.agents import action, register


class ChainSource:
    """Serves a chain; remembers the heights it was asked for."""

    def __init__(self, chain: Chain):
        self.world = chain.genesis
        self.bundles = list(chain.bundles)
        self.blobs = dict(chain.blobs)
        self.asked: list[int] = []
        self.pooled: set[str] = set()

    async def genesis(self) -> Genesis:
        return self.world

    async def tip(self) -> Tip | None:
        if not self.bundles:
            return None
        block = self.bundles[-1].block
        return Tip(block.height, block_hash_of(block), block.state_root)

    async def blocks(self, start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
        self.asked.append(start)
        return tuple(self.bundles[start - 1 : start - 1 + limit])

    async def block(self, block: str | int) -> BlockBundle:
        for bundle in self.bundles:
            if str(block) in (str(bundle.block.height), block_hash_of(bundle.block)):
                return bundle
        raise NotFound("no such block", field="block", value=block)

    async def height_of_action(self, action_id: str) -> int | None:
        for bundle in self.bundles:
            if any(item.action_id == action_id for item in bundle.batch.actions):
                return bundle.block.height
        if action_id in self.pooled:
            return None
        raise NotFound("no such action", field="action_id", value=action_id)

    async def directory(self, epoch: int | None = None) -> Directory:
        known = [self.world.directory, *(item.batch.directory for item in self.bundles if item.batch.directory)]
        if epoch is None:
            return known[-1]
        if epoch > len(known):
            raise NotFound("no such epoch", field="epoch", value=epoch)
        return known[epoch - 1]

    async def blob(self, content_hash: str) -> bytes:
        if content_hash not in self.blobs:
            raise NotFound("no such blob", field="hash", value=content_hash)
        return self.blobs[content_hash]


def a_chain(*, last: Sequence[ActionEnvelope] = ()) -> Chain:
    """Eight blocks of two agents: a second directory at height 2, snapshots at 3 and 6, mail, an object, a refusal.

    ``last`` are other actions of the last block.
    """
    made = Chain()
    made.commit(register("ada"), register("bob"))
    made.commit(directory=successor(made.genesis.directory, Changes()))
    made.commit(action("ada", "agent.move", {"to": [1, 0]}, 1))
    made.commit(action("ada", "object.create", {"object_id": "lamp", "data": {"lit": False}}, 2))
    made.commit(action("bob", "message.send", {"to": "ada", "body": "hello"}, 1))
    made.commit(action("ada", "object.update", {"object_id": "lamp", "data": {"lit": True}}, 3))
    made.commit(action("bob", "object.update", {"object_id": "lamp", "data": 0}, 2))
    usual = [action("ada", "mailbox.clear", {"up_to": 1}, 4), action("bob", "agent.move", {"to": [5, 5]}, 3)]
    made.commit(*(last or usual))
    return made


def forged(
    chain: Chain,
    actions: Sequence[ActionEnvelope],
    *,
    event: WorldEvent | None = None,
    receipt: Receipt | None = None,
    state_root: str | None = None,
) -> tuple[BlockBundle, dict[str, bytes]]:
    """The next block with another result than execution gives, signed by everybody, and the blobs that it names.

    ``event`` and ``receipt`` take the place of the ones with the same number.
    """
    state = chain.state
    batch = make_batch(state, actions)
    execution = execute(state, batch, header(state))
    events = [event if event and event.event_id == item.event_id else item for item in execution.events]
    receipts = [receipt if receipt and receipt.position == item.position else item for item in execution.receipts]
    journal = cut_events(events, PARAMETERS.journal_events_per_segment)
    receipts_root, data = receipts_blob(receipts)
    block = dataclasses.replace(
        execution.block,
        event_root=journal.event_root,
        journal_ref=journal.journal_ref,
        segments=journal.segments,
        receipts_root=receipts_root,
        state_root=state_root or execution.block.state_root,
    )
    signed = resign(block, "a")
    blobs = {**execution.blobs, **journal.blobs, receipts_root: data}
    return BlockBundle(block=signed, batch=batch, certificate=make_certificate(signed)), blobs

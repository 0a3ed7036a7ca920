"""A world from submission to audit, every part with a store of its own (scenarios E1 to E3 of the runtime spec)."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentworld_client.errors import VerificationFailed
from agentworld_client.gateway import GatewayClient
from agentworld_client.inspector import Inspector
from agentworld_client.source import WorldSource
from agentworld_client.verifier import VerificationReport, Verifier
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_node.offline import FolderSource
from tests.unit.node.material import registrations
from tests.unit.node.running import MemoryWorld, RunningNode
from tests.unit.storage.blob_files import wipe_blob

SNAPSHOT = 3


@pytest.fixture
async def world(alone: MemoryWorld) -> MemoryWorld:
    """A validator and a gateway, which took an agent's registration and three moves; the head is above a snapshot."""
    await alone.start("v0", "g0")
    agents, actions = registrations(1)
    await alone.commit("g0", actions)
    for number in range(SNAPSHOT):
        await alone.commit("g0", [agents[0].act("agent.move", {"to": [number, 0]})])
    await alone.height(SNAPSHOT + 1)
    return alone


async def audit(source: WorldSource, world: MemoryWorld, *, start: int = 1) -> VerificationReport:
    verifier = Verifier(await source.genesis(), replay=True, trusted_genesis=genesis_hash(world.material.genesis))
    return await verifier.verify(source, start=start)


def data_folder(node: RunningNode) -> Path:
    return Path(node.node.config.data_folder)


def wipe_chunk(node: RunningNode) -> None:
    """Overwrites a chunk of the node's snapshot."""
    ledger = node.node.ledger
    bundle = ledger.bundle(SNAPSHOT)
    assert bundle is not None
    manifest = load_manifest(bundle.block.snapshot_ref or "", ledger.blob)
    wipe_blob(data_folder(node) / "blobs", manifest.chunks[0].content_hash)


@pytest.mark.box("S7.3", "same-hash", "sources")
async def test_e1_what_was_submitted_is_replayed_to_the_announced_block(world: MemoryWorld) -> None:
    for name in ("v0", "g0"):
        async with world.nodes[name].client() as client:
            head = await client.head()
            report = await audit(client, world)
        assert head is not None
        assert (report.height, report.block_hash) == (head.height, head.block_hash)
        assert (report.actions, report.state_root) == (SNAPSHOT + 1, head.state_root)
        beside = await audit(FolderSource(data_folder(world.nodes[name])), world)
        assert beside.block_hash == head.block_hash, "the folder of a node that runs says the same"


@pytest.mark.box("S8.2", "reopened")
async def test_e2_a_store_that_was_closed_and_opened_again_still_proves_itself(world: MemoryWorld) -> None:
    before = world.nodes["g0"].node.ledger.chain.block_hash
    await world.nodes["g0"].stop()
    folder = FolderSource(data_folder(world.nodes["g0"]))
    assert (await audit(folder, world)).block_hash == before
    (again,) = await world.start("g0")
    async with again.client() as client:
        assert (await audit(client, world)).block_hash == before
        found = await (await Inspector.open(client)).snapshot(str(SNAPSHOT))
        assert found["epoch"] == SNAPSHOT
        assert (await audit(client, world, start=SNAPSHOT + 1)).from_height == SNAPSHOT + 1


@pytest.mark.box("S8.3", "chunk")
@pytest.mark.box("S7.3", "garbage")
async def test_e3_an_overwritten_chunk_is_found_and_no_head_is_taken_from_it(world: MemoryWorld) -> None:
    node = world.nodes["g0"]
    await node.node.ledger.settle()
    head = node.node.ledger.chain.block_hash
    wipe_chunk(node)
    folder = FolderSource(data_folder(node))
    verifier = Verifier(await folder.genesis(), replay=True)
    with pytest.raises(VerificationFailed, match="snapshot is wrong") as caught:
        await verifier.verify(folder, start=SNAPSHOT + 1)
    assert (caught.value.height, verifier.chain.height) == (SNAPSHOT, 0)
    async with GatewayClient(node.url, patience=0) as client:
        with pytest.raises(VerificationFailed, match="snapshot is wrong"):
            await audit(client, world, start=SNAPSHOT + 1)
        # The blocks are whole, so that whoever begins at the genesis needs no snapshot.
        assert (await audit(client, world)).block_hash == head

    await node.stop()
    (again,) = await world.start("g0")
    assert again.node.ledger.chain.block_hash == head, "the node itself executes what the snapshot no longer gives"

"""A writer that keeps its lease and writes nothing: the others write in turn, and it is no longer the writer after."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from agentworld_core.consensus.proposers import HOLDER_ATTEMPTS
from agentworld_core.ordering.lease import LeaseWrite
from agentworld_node.lease.file import FileLeaseStore
from tests.integration.node.cluster_of_nodes import cluster
from tests.integration.node.test_processes import all_blocks, check_history
from tests.unit.node.material import Material, registrations


async def keep(store: FileLeaseStore) -> None:
    """Renews the lease in the name of whoever holds it, until it is cancelled."""
    while True:
        record = await store.read()
        assert record is not None
        await store.write(
            LeaseWrite(
                holder=record.holder, term=record.term, duration_ms=record.duration_ms, expected_version=record.version
            )
        )
        await asyncio.sleep(0.5)


@pytest.mark.box("S25.1", "proposer")
@pytest.mark.box("S5.3", "yield")
async def test_a_writer_that_keeps_the_lease_and_proposes_nothing_does_not_stop_the_world(tmp_path: Path) -> None:
    material = Material(tmp_path)
    async with cluster(material) as world:
        await world.start()
        agents, actions = registrations(4)
        await world.commit("v0", actions)
        await world.same_head()
        writer, term = await world.writer()
        other = next(name for name in world.nodes if name != writer)
        world[writer].signal(signal.SIGSTOP)
        keeping = asyncio.create_task(keep(FileLeaseStore(Path(material.config("v0").lease.path))))
        try:
            for number in range(3):
                await world.commit(other, [agents[number].act("agent.move", {"to": [number, 1]})])
            async with world[other].client() as client:
                last = [bundle.block for bundle in await all_blocks(client)][-3:]
            assert [block.term for block in last] == [term] * 3
            assert [block.attempt >= HOLDER_ATTEMPTS for block in last] == [True] * 3
            assert writer not in {block.proposer_id for block in last}
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            world[writer].signal(signal.SIGCONT)

        _, later = await world.writer(over=term)
        await world.commit(writer, [agents[3].act("agent.move", {"to": [7, 7]})])
        head = await world.same_head()
        assert head["term"] == later
        await check_history(world, *world.nodes)

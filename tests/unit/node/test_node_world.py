"""Nodes of one world, joined by a network in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.node.material import Material, registrations
from tests.unit.node.running import eventually, memory_world


@pytest.mark.box("S8.3", "nodes")
async def test_four_validators_and_a_gateway_commit_and_agree(tmp_path: Path) -> None:
    async with memory_world(Material(tmp_path, others=("g0",))) as world:
        await eventually(world.writer, what="a writer")
        _, actions = registrations(40)
        receipts = await world.commit("g0", actions)
        await world.height(max(receipt["height"] for receipt in receipts))
        roots = {one.node.ledger.chain.state_root for one in world.nodes.values()}
        assert len(roots) == 1

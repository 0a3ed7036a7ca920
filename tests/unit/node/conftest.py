"""Fixtures of tests that need a node which decides alone."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.node.material import PARAMETERS, Material
from tests.unit.node.running import MemoryWorld, RunningNode, memory_world

ALONE = dataclasses.replace(PARAMETERS, leaseless=True, snapshot_interval=3)


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    """A world of one validator, which needs nobody and no lease, not started yet."""
    material = Material(tmp_path, validators=("v0",), others=("g0",), parameters=ALONE)
    async with memory_world(material, start=False) as world:
        yield world


@pytest.fixture
async def node(alone: MemoryWorld) -> RunningNode:
    """The validator of a world of one, running."""
    return (await alone.start("v0"))[0]

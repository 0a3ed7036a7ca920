"""The stores of the writer lease that need no service keep what every store promises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.lease.memory import MemoryLease
from tests.unit.node import lease_contract as contract
from tests.unit.node.lease_contract import Check, Place

IN_MEMORY = contract.EVERYWHERE + contract.WHERE_THE_FIRST_WRITE_MAKES_THE_RECORD
IN_A_FILE = IN_MEMORY + contract.WHERE_THE_PLACE_CAN_BE_GONE


@pytest.mark.box("S5.3", "compare-and-swap", "lost-cannot-renew")
@pytest.mark.parametrize("check", IN_MEMORY, ids=lambda check: check.__name__)
async def test_a_lease_in_memory(check: Check) -> None:
    lease = MemoryLease()
    await check(Place(lease.store, cut_off=lambda: None))


@pytest.mark.box("S5.3", "compare-and-swap", "lost-cannot-renew")
@pytest.mark.parametrize("check", IN_A_FILE, ids=lambda check: check.__name__)
async def test_a_lease_in_a_file(tmp_path: Path, check: Check) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    await check(Place(lambda: FileLeaseStore(folder / "lease.json"), cut_off=lambda: shutil.rmtree(folder)))

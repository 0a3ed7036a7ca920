"""Power failures and killed supervisors on one machine: what was reported committed is there, once, on every node."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.gateway import GatewayClient
from agentworld_core.messages import ActionEnvelope
from tests.integration.worlds import LocalWorld, agents, key, moves, registrations, until, verify, world

SEED = 20261122
ROUNDS = 10
ACTIONS = 1000
SUBMITTERS = 4
BATCH = 5

NO_GATEWAY = {"gateway": {"replicas": 0}}


class Submitters:
    """Clients of all nodes that submit what is not committed yet, and remember every promise they were given."""

    def __init__(self, local: LocalWorld, actions: Sequence[ActionEnvelope]):
        self._local = local
        self._actions = actions
        self.promised: dict[str, tuple[int, int]] = {}

    async def run_until(self, count: int) -> None:
        """Submits until this many actions are promised; the others are still under way then."""
        left = [action for action in self._actions if action.action_id not in self.promised]
        batches = iter([left[start : start + BATCH] for start in range(0, len(left), BATCH)])
        tasks = [asyncio.create_task(self._submit(node_id, batches)) for node_id in self._local.validators()]
        try:

            async def enough() -> bool:
                for task in tasks:
                    if task.done():
                        task.result()
                return len(self.promised) >= count

            await until(enough, f"{count} actions are committed", seconds=120)
        finally:
            # Killed in the middle of whatever they wait for, as the nodes are.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _submit(self, node_id: str, batches: Any) -> None:
        async with self._local.client(node_id) as client:
            for batch in batches:
                for receipt in await client.submit(batch, wait=True):
                    assert "error" not in receipt, receipt
                    if receipt["status"] == "committed":
                        assert receipt["ok"], receipt
                        self.promised[receipt["action_id"]] = (receipt["height"], receipt["position"])


async def ledger(client: GatewayClient) -> tuple[list[str], dict[str, tuple[int, int]], Counter[str]]:
    """Returns the state roots, the place of each action, and how often each action is in the whole ledger of a node."""
    roots: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    count: Counter[str] = Counter()
    while bundles := await client.blocks(len(roots) + 1, limit=256):
        for bundle in bundles:
            roots.append(bundle.block.state_root)
            for position, action in enumerate(bundle.batch.actions):
                places[action.action_id] = (bundle.block.height, position)
                count[action.action_id] += 1
    return roots, places, count


@pytest.mark.box("S8.2", "every-role")
@pytest.mark.timeout(900)
async def test_everything_is_killed_ten_times_amid_a_thousand_actions(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    async with LocalWorld(tmp_path, world(4, **NO_GATEWAY)) as local:
        state = await local.up()
        actors = agents(SUBMITTERS)
        async with local.client() as client:
            await client.submit(registrations(actors), wait=True)
        submitters = Submitters(local, moves(actors, ACTIONS))
        for round_number in range(ROUNDS):
            # Never at the end of a round, so that actions are on their way when the lights go out.
            goal = round_number * ACTIONS // ROUNDS + chance.randint(1, ACTIONS // ROUNDS - SUBMITTERS * BATCH)
            await submitters.run_until(goal)
            await local.kill()
            assert local.note_processes() == {}
            await local.up(settled=False)
            await check(local, submitters.promised)
        await submitters.run_until(ACTIONS)
        await check(local, submitters.promised)
        head = await local.same_head(local.validators())
        async with local.client() as client:
            report = await verify(client.url, "--genesis", state.genesis_hash)
        assert report["state_root"] == head["state_root"]
        assert report["actions"] == ACTIONS + len(actors), "each action is in the ledger exactly once"


async def check(local: LocalWorld, promised: dict[str, tuple[int, int]]) -> None:
    """Every promise holds on every node: the action is where it was said to be, and nowhere else."""
    highest = max((height for height, _ in promised.values()), default=0)
    ledgers = []
    for node_id in local.validators():
        async with local.client(node_id) as client:

            async def caught_up(client: GatewayClient = client) -> bool:
                return (await client.status())["head"]["height"] >= highest

            await until(caught_up, f"{node_id} has height {highest}")
            ledgers.append(await ledger(client))
    shared = min(len(roots) for roots, _, _ in ledgers)
    for roots, places, count in ledgers:
        assert roots[:shared] == ledgers[0][0][:shared], "all nodes agree"
        assert {action_id: places.get(action_id) for action_id in promised} == promised
        assert set(count.values()) <= {1}


@pytest.mark.parametrize("moment", ["the key is made", "an epoch is on its way", "the new key signs"])
async def test_a_rotation_goes_on_after_the_supervisor_was_killed_amid_it(tmp_path: Path, moment: str) -> None:
    signing: dict[str, Any] = {"rotation": {"overlap": "1s"}}
    async with LocalWorld(tmp_path, world(1, **NO_GATEWAY), key(**signing)) as local:
        before = await local.up()
        second = local.data / "keys" / "aurora-0" / "g2.pem"

        async def reached() -> bool:
            if moment == "the key is made":
                return second.exists()
            state = await local.control().world()
            if moment == "an epoch is on its way":
                return state.pending_epoch > 0 or state.epoch > before.epoch
            return [item.active_key_id for item in state.keys if item.name == "aurora-0"] != [
                before.keys[0].active_key_id
            ]

        await local.apply(world(1, **NO_GATEWAY), key(generation=2, **signing), wait=False)
        await until(reached, moment)
        local.kill_supervisor()

        await local.up(settled=False)
        after = await local.when(
            lambda state: (
                [
                    [(row["generation"], row["state"]) for row in item.generations]
                    for item in state.keys
                    if item.name == "aurora-0"
                ]
                == [[(1, "Retired"), (2, "Active")]]
            ),
            "the rotation is done",
        )
        assert after.epoch == before.epoch + 2, "no step was done twice"
        actors = agents(1)
        async with local.client() as client:
            assert [item["status"] for item in await client.submit(registrations(actors), wait=True)] == ["committed"]
            await verify(client.url, "--genesis", before.genesis_hash)


async def test_a_node_that_dies_is_started_again_and_catches_up(tmp_path: Path) -> None:

    async with LocalWorld(tmp_path, world(4, **NO_GATEWAY)) as local:
        await local.up()
        actors = agents(2)
        async with local.client("aurora-1") as client:
            await client.submit(registrations(actors), wait=True)
            victim = local.note_processes()["aurora-0"]
            os.kill(victim, signal.SIGKILL)
            receipts = await client.submit(moves(actors, 10), wait=True)
            assert [receipt["status"] for receipt in receipts] == ["committed"] * 10
        back = await local.when(
            lambda state: (
                all(node.phase == "Voting" for node in state.nodes) and state.nodes[0].pid not in (None, victim)
            ),
            "it votes again",
        )
        assert [node.restarts for node in back.nodes] == [1, 0, 0, 0]
        await local.same_head(local.validators())

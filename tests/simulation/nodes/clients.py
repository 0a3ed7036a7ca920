"""Clients that submit actions until each is committed, to whichever node answers, and remember what they were told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agentworld_client.submit import Agent
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import ActionEnvelope
from agentworld_node.node import Node
from tests.unit.node.material import WORLD, signer

if TYPE_CHECKING:
    from tests.simulation.nodes.world import World

WAIT_SECONDS = 5.0
ANSWER_SECONDS = 8.0


class Client:
    """One agent; its next action comes when the one before is committed, as far as it was told."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.rng = world.rng(f"client/{name}")
        self.agent = Agent(signer(name), world_id=WORLD, actor_id=name, clock=lambda: 1_000_000)

    async def run(self) -> None:
        """Acts until the chaos is over."""
        await self.settle(self.agent.act("agent.register", {"position": [0, 0]}))
        step = 0
        while not self.world.calm:
            await asyncio.sleep(self.rng.uniform(*self.world.scenario.pauses))
            step += 1
            await self.hand_in(step)
        await self.end()

    async def hand_in(self, step: int) -> None:
        """Has the next action committed."""
        await self.settle(self.agent.act("agent.move", {"to": [step, self.rng.randrange(100)]}))

    async def end(self) -> None:
        """Acts once more, now that all is healed."""
        await self.settle(self.agent.act("agent.move", {"to": [0, 0]}))

    async def settle(self, action: ActionEnvelope) -> None:
        """Submits an action again and again until somebody says that it is committed."""
        machines = list(self.world.machines.values())
        while True:
            machine = self.rng.choice(machines)
            try:
                answer = await machine.ask(lambda node: _submit(node, action), seconds=ANSWER_SECONDS)
            except AgentWorldError as error:
                answer = error
            if isinstance(answer, dict) and answer["status"] == "committed":
                self.world.acknowledge(self.name, machine, action, answer)
                return
            if isinstance(answer, AgentWorldError):
                self.world.reach(f"refused {answer.code}")
            await asyncio.sleep(self.rng.uniform(0.05, 0.5))


class TrustingClient(Client):
    """An agent that hands each action in once, and relies on the node that took it."""

    async def hand_in(self, step: int) -> None:
        machine = self.rng.choice(list(self.world.machines.values()))
        action, losses = self.agent.act("agent.move", {"to": [step, 0]}), machine.losses
        try:
            (result,) = await machine.ask(lambda node: node.gateway.submit([action]), seconds=ANSWER_SECONDS)
        except AgentWorldError:
            return  # nobody has promised anything
        if isinstance(result, dict) and losses == machine.losses:
            self.world.promised[action.action_id] = (machine, losses)

    async def end(self) -> None:
        """Leaves it at that."""


async def _submit(node: Node, action: ActionEnvelope) -> dict[str, Any] | AgentWorldError:
    results = await node.gateway.submit([action], source="client")
    (result,) = await node.gateway.wait_committed(results, seconds=WAIT_SECONDS)
    return result

"""People who govern a world while it is disturbed: they move the writer, and change members, weights and keys."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING

from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.builder import key_entry, with_keys, with_member, without_member
from agentworld_core.messages import Directory
from agentworld_core.ordering.transfer import Writer, WriterTransfer
from agentworld_core.signing import add_signature
from tests.unit.node.material import WORLD, member, next_epoch, now_ms, revocation, signer

if TYPE_CHECKING:
    from tests.simulation.nodes.machine import Machine
    from tests.simulation.nodes.world import World

ANSWER_SECONDS = 20.0
WISH_MS = 60_000


class Governance:
    """Wants one thing after another, and remembers what it was promised."""

    def __init__(self, world: World):
        self.world = world
        self.rng = world.rng("governance")
        self.generations = dict.fromkeys(world.material.names, 1)
        self._revoked: set[str] = set()

    async def run(self) -> None:
        """Governs until the chaos is over."""
        wishes = self.world.scenario.wishes
        while wishes and not self.world.calm:
            await asyncio.sleep(self.rng.uniform(0.3, 4.0))
            kind = self.rng.choices(list(wishes), weights=list(wishes.values()))[0]
            machine = self.rng.choice(list(self.world.machines.values()))
            try:
                await getattr(self, f"_{kind}")(machine)
            except AgentWorldError as error:
                self.world.note("people", "refused", f"{kind} at {machine.name}: {error.code}")
                self.world.reach(f"{kind} refused")

    async def _transfer(self, machine: Machine) -> None:
        target = self.rng.choice([item.member_id for item in self._latest(machine).members])
        writer = await machine.ask(lambda node: node.handover.writer(), seconds=ANSWER_SECONDS)
        wish = WriterTransfer(WORLD, target, writer.term, now_ms() + WISH_MS, ())
        wish = add_signature(wish, signer("gov"))
        self.world.note("people", "want", f"{target} to write, asking {machine.name}")
        answer: Writer = await machine.ask(lambda node: node.handover.transfer(wish), seconds=ANSWER_SECONDS)
        self.world.note("people", "are told", f"{answer.holder_id} writes in term {answer.term}")
        if (answer.term, answer.holder_id) not in self.world.lease.granted:
            self.world.fail(
                "TRANSFER", f"{answer.holder_id} is said to write in term {answer.term}, and was never granted it"
            )
        if writer.holder_id != target:
            self.world.reach("handed over")

    async def _weight(self, machine: Machine) -> None:
        directory = self._latest(machine)
        chosen = self.rng.choice(directory.members)
        if self.world.liar is not None:
            return  # a heavier liar might be more than the quorum tolerates
        weight = 2 if chosen.weight == 1 and all(item.weight == 1 for item in directory.members) else 1
        await self._change(
            machine, directory, members=with_member(directory, dataclasses.replace(chosen, weight=weight))
        )

    async def _member(self, machine: Machine) -> None:
        directory = self._latest(machine)
        names = {item.member_id for item in directory.members}
        absent = sorted(set(self.world.machines) - names - {"g0"})
        if absent and (len(names) < 4 or self.rng.random() < 0.5):
            name = self.rng.choice(absent)
            joined = with_member(directory, member(name, generations=(self.generations[name],)))
            await self._change(machine, directory, members=joined)
        elif len(names) > 4 or self.world.liar is None:
            # Who stays must tolerate the liar, if there is one.
            removable = sorted(names) if self.world.liar is None or len(names) > 4 else [self.world.liar.name]
            await self._change(machine, directory, members=without_member(directory, self.rng.choice(removable)))

    async def _rotate(self, machine: Machine) -> None:
        directory = self._latest(machine)
        chosen = self.rng.choice(directory.members)
        name = chosen.member_id
        if self.world.liar is not None and name == self.world.liar.name:
            return
        newest = max(key.generation for key in chosen.keys)
        generations = (newest, newest + 1)
        self.world.material.write_keys(name, generations=generations, active=newest + 1)
        self.generations[name] = newest + 1
        keys = [key_entry(signer(name, number).public_key, number) for number in generations]
        await self._change(machine, directory, members=with_keys(directory, name, keys))

    async def _revoke(self, machine: Machine) -> None:
        """Revokes a key that no validator signs with any more, or that of the liar."""
        directory = self._latest(machine)
        if not self._in_force(directory):
            return  # who has rotated its keys still signs with the old one, and it might be missed
        old = [
            key.key_id
            for item in directory.members
            for key in item.keys
            if key.generation < max(other.generation for other in item.keys)
            or (self.world.liar is not None and item.member_id == self.world.liar.name and len(directory.members) > 3)
        ]
        if not old:
            return
        statement = revocation(self.rng.choice(old))
        self.world.note("people", "revoke", f"{statement.key_id[:8]} at {machine.name}")
        await machine.ask(lambda node: node.membership.submit_revocation(statement, force=True), seconds=ANSWER_SECONDS)
        machine.revoked.add(statement.key_id)
        self._revoked.add(statement.key_id)
        self.world.reach("revoked")

    @property
    def revoked(self) -> Collection[str]:
        """The keys of which somebody was told that they are revoked."""
        return self._revoked

    async def _change(self, machine: Machine, current: Directory, **changes: object) -> None:
        directory = next_epoch(current, **changes)
        members = " ".join(f"{item.member_id}x{item.weight}" for item in directory.members)
        self.world.note("people", "propose", f"epoch {directory.epoch} at {machine.name}: {members}")
        await machine.ask(lambda node: node.membership.submit_directory(directory), seconds=ANSWER_SECONDS)
        # The next change is built on this one, so it has to be in force or forgotten before.
        for _ in range(40):
            await asyncio.sleep(0.5)
            if self._latest(machine).epoch >= directory.epoch:
                self.world.reach("changed the directory")
                return

    def _in_force(self, directory: Directory) -> bool:
        chains = [machine.node.ledger.chain for machine in self.world.machines.values() if machine.node is not None]
        return any(chain.directory_at(chain.next_height).epoch >= directory.epoch for chain in chains)

    def _latest(self, machine: Machine) -> Directory:
        """Returns the newest directory that anybody knows of, the machine's own first."""
        machines = [machine, *self.world.machines.values()]
        known = [one.node.ledger.chain.directories[-1].directory for one in machines if one.node is not None]
        return max(known, key=lambda directory: directory.epoch, default=self.world.material.genesis.directory)

"""The faults, one method each, and when they happen: steps drawn from the seed, any of which can be left out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.builder import Changes, with_member, without_member
from agentworld_core.membership.directory import CRASH, quorum_weight
from agentworld_core.messages import Directory
from tests.simulation.node import GENERATIONS, LEASE, WALL_START_MS, SimNode, key_of
from tests.simulation.transfer import wish_of
from tests.unit.core.membership.worlds import member, statement, successor

if TYPE_CHECKING:
    from tests.simulation.world import World

HOUR_MS = 3_600_000


class Chaos:
    """Does harm to a world, step after step, until it is told to stop."""

    def __init__(self, world: World):
        self.world = world
        self.kernel = world.kernel
        self.rng = world.kernel.rng("chaos")
        self.running = True
        self.steps = 0
        self.governed: list[Directory] = []

    def step(self) -> None:
        """Does one of the enabled faults, and comes back later."""
        if not self.running:
            return
        scenario = self.world.scenario
        low, high = scenario.every_ms
        number, self.steps = self.steps, self.steps + 1
        # Every step has its own stream, so that a step that is left out changes no other one.
        self.rng = self.kernel.rng(f"chaos/{number}")
        self.kernel.after(self.rng.randint(low, high), self.step)
        if scenario.faults and number not in scenario.skip:
            kind = self.rng.choices(list(scenario.faults), weights=list(scenario.faults.values()))[0]
            self.kernel.reach(f"fault {kind}")
            getattr(self, "_" + kind.replace("-", "_"))()

    def stop(self) -> None:
        """Ends the chaos and heals what it has done."""
        world = self.world
        self.running = False
        self.kernel.note("world", "heals", "")
        world.net.join()
        world.lease_store.away = False
        world.lease_store.join()
        for node in world.nodes:
            node.paused_until = 0
            node.wall_offset = 0
            node.disk.slow_until = 0
            node.disk.fail_next = None
            node.boot_if_down()

    # The network

    def _ends(self) -> list[str]:
        ends = self.world.net.ends
        self.rng.shuffle(ends)
        return ends

    def _maybe_join(self) -> bool:
        """Ends a partition instead of making another one, now and then."""
        if self.rng.random() < 0.25:
            self.world.net.join()
            return True
        return False

    def _split(self) -> None:
        ends = self._ends()
        cut = self.rng.randint(0, len(ends))
        if cut in (0, len(ends)):
            self.world.net.join()
        else:
            self.world.net.split([ends[:cut], ends[cut:]])

    def _shatter(self) -> None:
        groups: dict[int, list[str]] = {}
        for end in self._ends():
            groups.setdefault(self.rng.randrange(4), []).append(end)
        if not self._maybe_join():
            self.world.net.split(list(groups.values()))

    def _isolate(self) -> None:
        ends = self._ends()
        if not self._maybe_join():
            self.world.net.split([ends[:1], ends[1:]])

    def _one_way(self) -> None:
        ends = self.world.net.ends
        links = [(a, b) for a in ends for b in ends if a != b and self.rng.random() < 0.3]
        if not self._maybe_join():
            self.world.net.cut(links, says=" ".join(f"{a}>{b}" for a, b in links))

    def _bridge(self) -> None:
        ends = self._ends()
        cut = self.rng.randint(1, len(ends))
        if not self._maybe_join():
            self.world.net.split([[*ends[1:cut], ends[0]], [ends[0], *ends[cut:]]])

    def _clog(self) -> None:
        end = self.rng.choice(self.world.net.ends)
        self.world.net.clog(end, self.kernel.now + self.rng.choice((300, 1500, 5000)))

    # Nodes

    def _stop(self, node: SimNode, down_ms: int) -> None:
        if node.up:
            node.crash()
            self.kernel.after(down_ms, node.boot_if_down)

    def _crash(self) -> None:
        nodes = self.world.nodes
        count = self.rng.choice((1, 1, 2, len(nodes)))
        for node in self.rng.sample(nodes, min(count, len(nodes))):
            self._stop(node, self.rng.choice((1, 300, 3000)))

    def _disaster(self) -> None:
        self.world.lease_store.lose()
        for node in self.world.nodes:
            self._stop(node, self.rng.choice((100, 2000)))

    def _pause(self) -> None:
        node = self.rng.choice(self.world.nodes)
        node.paused_until = self.kernel.now + self.rng.choice((500, LEASE.duration_ms, 3 * LEASE.duration_ms))
        self.kernel.note(node.end, "pauses", f"until {node.paused_until}")

    def _clock_jump(self) -> None:
        node = self.rng.choice(self.world.nodes)
        leap = self.rng.choice((10, 700, 2 * LEASE.duration_ms, HOUR_MS))
        # Who counts the duration of somebody else's lease on a clock that leaps takes it too early, by this long.
        self.world.lease_store.may_have_two_holders = True
        node.clock_start += leap
        self.kernel.note(node.end, "leaps", f"its clock is {leap} ms further")

    def _wall_clock(self) -> None:
        """Puts one and the same clock wrong, only where the others can decide without it and without malicious ones.

        Were it now one and then another, a block that is an hour ahead could find a quorum one by one.
        """
        world = self.world
        node = self.kernel.rng("wrong clock").choice(world.honest)
        wrong = sum(weight for name, weight in world.scenario.members.items() if name in (node.name, *world.faulty))
        if wrong < quorum_weight(world.first_directory):
            node.wall_offset = self.rng.choice((-HOUR_MS, 0, HOUR_MS))
            self.kernel.note(node.end, "wall clock", f"is {node.wall_offset} ms off")

    def _slow_disk(self) -> None:
        node = self.rng.choice(self.world.nodes)
        node.disk.slow_until = self.kernel.now + self.rng.choice((2000, 6000))
        self.kernel.note(node.end, "disk slow", f"until {node.disk.slow_until}")

    def _disk_error(self) -> None:
        node = self.rng.choice(self.world.nodes)
        if node.up:
            down_ms = self.rng.choice((1, 1000))
            node.disk.fail_next = lambda: self._stop(node, down_ms)
            self.kernel.note(node.end, "disk fails", "at its next sync")

    # The lease

    def _lease_away(self) -> None:
        self.world.lease_store.away = not self.world.lease_store.away
        self.kernel.note("lease", "away" if self.world.lease_store.away else "back", "")

    def _lease_lost(self) -> None:
        self.world.lease_store.lose()

    def _lease_split(self) -> None:
        if self.rng.random() < 0.5:
            self.world.lease_store.join()
        else:
            self.world.lease_store.split({node.name: self.rng.randrange(2) for node in self.world.nodes})

    def _lease_edit(self) -> None:
        record = self.world.lease_store.record
        if record is not None:
            holder = self.rng.choice((record.holder, None, "stranger", self.rng.choice(self.world.nodes).name))
            term = max(record.term + self.rng.choice((-3, -1, 0, 1, 1000)), 0)
            self.world.lease_store.edit(holder=holder, term=term)

    def _hand_over(self) -> None:
        """Governance wants somebody else to write; the holder is told, if it is there to hear it."""
        record = self.world.lease_store.record
        if record is None or record.holder is None:
            return
        names = [member.member_id for member in self._newest().members if member.member_id != record.holder]
        wish = wish_of(self.rng.choice(names), record.term, now_ms=WALL_START_MS + self.kernel.now) if names else None
        for node in self.world.nodes:
            if wish is not None and node.name == record.holder and node.up:
                self.kernel.note(node.end, "told", f"to hand the lease over to {wish.target_id}")
                with contextlib.suppress(AgentWorldError):  # the term is over, or its clock is wrong
                    node.transfer.wished(wish)

    # Membership

    def _revoke(self) -> None:
        """Governance revokes the key that a malicious validator votes with."""
        directory = self._newest()
        keys = [key.key_id for item in directory.members if item.member_id in self.world.faulty for key in item.keys]
        told = [node for node in self.world.honest if node.up and node.chain.keyring.newest == directory]
        if keys and told:
            node = self.rng.choice(told)
            self.kernel.note(node.end, "told", f"of the revocation of {keys[0][:8]}")
            node.handle_revocation(statement(keys[0], "gov"))

    def _membership(self) -> None:
        """Governance signs a change of the validators, and tells some nodes."""
        directory = self._newest()
        changes = self._change(directory)
        if changes is None:
            return
        proposed = successor(directory, changes)
        self.governed.append(proposed)
        says = " ".join(f"{item.member_id}x{item.weight}" for item in proposed.members)
        self.kernel.note("world", "governs", f"epoch {proposed.epoch}: {says}")
        for node in self.world.honest:
            if node.up and node.chain.keyring.newest == directory and self.rng.random() < 0.7:
                node.handle_directory(proposed)

    def _newest(self) -> Directory:
        keyrings = [node.chain.keyring for node in self.world.honest if node.up]
        return max((ring.newest for ring in keyrings), key=lambda d: d.epoch, default=self.world.first_directory)

    def _change(self, directory: Directory) -> Changes | None:
        """Draws a change that leaves no more malicious weight than the quorum tolerates, and somebody honest."""
        names = [item.member_id for item in directory.members]
        absent = [node.name for node in self.world.honest if node.name not in names]
        name = self.rng.choice(names)
        kind = self.rng.choice(("add", "remove", "weigh", "rekey"))
        if kind == "add" and absent:
            members = with_member(directory, member(self.rng.choice(absent), weight=self.rng.choice((1, 1, 2))))
        elif kind == "remove":
            members = without_member(directory, name)
        elif kind == "weigh":
            old = next(item for item in directory.members if item.member_id == name)
            keys = [key_of(name, key.generation) for key in old.keys]
            members = with_member(directory, member(name, weight=self.rng.choice((1, 2, 3)), keys=keys))
        elif kind == "rekey" and name not in self.world.faulty:
            old = next(item for item in directory.members if item.member_id == name)
            generation = old.keys[-1].generation + 1
            if generation > GENERATIONS:
                return None
            entry = member(name, weight=old.weight, keys=[key_of(name, g) for g in range(1, generation + 1)])
            members = with_member(directory, entry)
        else:
            return None
        total = sum(item.weight for item in members)
        faulty = sum(item.weight for item in members if item.member_id in self.world.faulty)
        spare = 0 if directory.fault_model == CRASH else (total - 1) // 3
        if not total or faulty > spare or faulty == total:
            return None
        return Changes(members=members)

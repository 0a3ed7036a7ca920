"""A world under the real reconciler, with the API server and the nodes in memory and a clock that a test moves."""

import copy
from typing import Any

from agentworld_operator.errors import Conflict
from agentworld_operator.plan.pods import Image
from agentworld_operator.reconcile.context import Context, Settings
from agentworld_operator.reconcile.world import Outcome, reconcile_world
from tests.unit.core.topology.manifests import manifest
from tests.unit.operator.fake_kube import FakeKube, Killed
from tests.unit.operator.fake_nodes import FakeNodes

START_MS = 1_767_225_600_000


class Harness:
    """One cluster with one operator; ``restart`` forgets everything the operator had in memory."""

    def __init__(self, name: str = "aurora"):
        self.name = name
        self.kube = FakeKube()
        self.nodes = FakeNodes(self.kube, name)
        self.now_ms = START_MS
        self.outcome = Outcome()
        self.restart()

    def restart(self) -> None:
        """Starts the operator anew."""
        settings = Settings(image=Image(reference="node:1"), operator_namespace="operators")
        self.nodes.now_ms = lambda: self.now_ms
        self.context = Context(kube=self.kube, nodes=self.nodes, settings=settings, now_ms=lambda: self.now_ms)

    def copy(self) -> "Harness":
        """Returns the same cluster once more, under an operator that has just started."""
        twin = Harness(self.name)
        twin.kube, twin.nodes = copy.deepcopy((self.kube, self.nodes))
        twin.now_ms = self.now_ms
        twin.restart()
        return twin

    def apply(self, kind: str, name: str, /, metadata: dict[str, Any] | None = None, **spec: Any) -> None:
        """Does what ``kubectl apply`` does."""
        key = (kind, "default", name)
        if key in self.kube.objects:
            self.kube.merge(kind, name, {"spec": spec, "metadata": metadata or {}})
        else:
            self.kube.put(manifest(kind, name, spec, **(metadata or {})))

    async def once(self) -> Outcome:
        """Lets the operator take one pass, and everybody else one step."""
        try:
            self.outcome = await reconcile_world(self.context, "default", self.name)
        except Conflict:
            self.outcome = Outcome(again_seconds=1)
        except Killed:
            self.restart()
            self.outcome = Outcome(again_seconds=1)
        self.nodes.step()
        self.now_ms += 5_000
        return self.outcome

    async def settle(self, *, limit: int = 60) -> int:
        """Lets time pass until nobody changes anything any more; returns how many passes that took."""
        quiet = 0
        for count in range(limit):
            before = len(self.kube.writes), self.nodes.height, len(self.nodes.chain)
            await self.once()
            quiet = quiet + 1 if before == (len(self.kube.writes), self.nodes.height, len(self.nodes.chain)) else 0
            if quiet == 3:
                return count
        raise AssertionError(f"not settled after {limit} passes; last writes: {self.kube.writes[-10:]}")

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """Returns the stored status of a resource."""
        status: dict[str, Any] = self.kube.read(kind, name).get("status") or {}
        return status

    @property
    def world(self) -> dict[str, Any]:
        """The stored status of the World."""
        return self.status("World", self.name)

    def condition(self, kind: str, name: str, condition: str) -> tuple[str, str]:
        """Returns status and reason of a stored condition."""
        for item in self.status(kind, name).get("conditions", []):
            if item["type"] == condition:
                return item["status"], item["reason"]
        return "", ""

    def message(self, kind: str, name: str, condition: str) -> str:
        """Returns the message of a stored condition."""
        return next(str(i["message"]) for i in self.status(kind, name)["conditions"] if i["type"] == condition)

    def events(self, reason: str = "") -> list[str]:
        """Returns the events about the World, or all of one reason about anything, as ``reason: message``."""
        found = [obj for (kind, _, _), obj in self.kube.objects.items() if kind == "Event"]
        about = (
            [e for e in found if e["reason"] == reason and e["involvedObject"]["kind"] == "World"] if reason else found
        )
        return [f"{event['reason']}: {event['message']}" for event in about]

    @property
    def members(self) -> list[str]:
        """The members of the directory in force."""
        return [member.member_id for member in self.nodes.chain[-1].members]

    def member_keys(self, member_id: str) -> list[int]:
        """The generations that the directory in force trusts for a member."""
        member = next(m for m in self.nodes.chain[-1].members if m.member_id == member_id)
        return [key.generation for key in member.keys]


async def running(replicas: int = 4, /, **spec: Any) -> Harness:
    """Returns a world that has come up."""
    harness = Harness()
    harness.apply("World", "aurora", validators={"replicas": replicas}, **spec)
    await harness.settle()
    return harness

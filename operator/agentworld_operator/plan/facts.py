"""Everything that the statuses of one world are made from, collected by one reconcile."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agentworld_core.consensus.verdict import Verdict, world_verdict
from agentworld_core.errors import InvalidField
from agentworld_core.membership.directory import find_member
from agentworld_core.membership.steps import Refused
from agentworld_core.membership.upkeep import UpkeepPlan
from agentworld_core.membership.wishes import RevocationPlan
from agentworld_core.messages import Directory, Equivocation, Genesis, Revocation
from agentworld_core.topology.plan import NodePlan, Topology
from agentworld_operator.nodes.status import Head, NodeStatus
from agentworld_operator.plan.keys import HeldKeys
from agentworld_operator.plan.lease import Writer, trouble_of, writer_of
from agentworld_operator.plan.running import PodFacts
from agentworld_operator.resources import names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Complaints:
    """What stands in the way, in words for people; empty when nothing does."""

    foreign: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    directory: str = ""
    genesis: tuple[InvalidField, ...] = ()
    """What keeps the genesis from being made: modules that are missing or wrong."""
    keys: Mapping[str, InvalidField] = dataclasses.field(default_factory=dict)
    """By resource, such as ``MembershipKey root``."""
    revocations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Nodes' refusals by key id."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldFacts:
    """What one reconcile knows at its end; validators and their pods go by the name of the Validator resource."""

    topology: Topology
    now_ms: int
    genesis_hash: str = ""
    genesis: Genesis | None = None
    statuses: Mapping[str, NodeStatus] = dataclasses.field(default_factory=dict)
    pods: Mapping[str, PodFacts] = dataclasses.field(default_factory=dict)
    gateways: Mapping[str, PodFacts] = dataclasses.field(default_factory=dict)
    directory: Directory | None = None
    pending: Directory | None = None
    plan: UpkeepPlan | None = None
    held: Mapping[str, HeldKeys] = dataclasses.field(default_factory=dict)
    active: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peer_ids: Mapping[str, str] = dataclasses.field(default_factory=dict)
    statements: Mapping[str, Revocation] = dataclasses.field(default_factory=dict)
    revocations: RevocationPlan = dataclasses.field(default_factory=RevocationPlan)
    complaints: Complaints = dataclasses.field(default_factory=Complaints)
    lease: Mapping[str, Any] | None = None
    last_writer: Writer = ("", 0)
    """The writer that the stored status names."""
    transfer: str = ""
    """What a hand-over of the lease that was asked for still waits for."""
    evidence: Mapping[str, Equivocation] = dataclasses.field(default_factory=dict)
    """Proofs that validators voted twice, checked, by their content ids."""

    @property
    def refusal(self) -> Refused | None:
        """Why members that should leave may not, None when all may."""
        return self.plan.members if self.plan is not None and isinstance(self.plan.members, Refused) else None

    @property
    def validators(self) -> list[NodePlan]:
        """All validators, those that are leaving included."""
        return [node for node in self.topology.nodes if node.kind == "validator"]

    def pod(self, name: str) -> PodFacts:
        """Returns the facts of a validator's pod."""
        return self.pods.get(name, PodFacts(name=name))

    def is_silent(self, node: NodePlan) -> bool:
        """True when the node has answered before and does not now: its machine, network or process is in trouble."""
        return self.pod(node.name).started and node.name not in self.statuses

    def is_member(self, node: NodePlan) -> bool:
        """True when the directory in force holds the node."""
        return self.directory is not None and find_member(self.directory, node.node_id) is not None

    def is_suspended(self, node: NodePlan) -> bool:
        """True when the node's pod is stopped on purpose."""
        return self.topology.world.spec.hibernated or self.topology.validator(node.name).spec.suspend

    @property
    def head(self) -> Head | None:
        """The highest head that any node reports, None when nobody answers."""
        heads = [status.head for status in self.statuses.values()]
        return max(heads, key=lambda head: (head.height, head.block_hash), default=None)

    @property
    def listeners(self) -> list[str]:
        """The nodes that have to confirm what governance says: all that should run, by name."""
        names = [node.name for node in self.validators if not self.is_suspended(node) and not node.leaving]
        return names + [name for name, pod in sorted(self.gateways.items()) if pod.exists]

    def unconfirmed(self, key_id: str) -> list[str]:
        """Returns the nodes that have not confirmed that a key is revoked."""
        return [
            name for name in self.listeners if name not in self.statuses or key_id not in self.statuses[name].revoked
        ]

    def behind_directory(self) -> list[str]:
        """Returns the nodes that do not apply the directory in force."""
        epoch = self.directory.epoch if self.directory else 0
        return [
            name for name in self.listeners if name not in self.statuses or self.statuses[name].directory.epoch < epoch
        ]

    def progress(self) -> Verdict | None:
        """Returns why the world moves or does not, as its members say; None when none of them does."""
        told = []
        for node in self.validators:
            status = self.statuses.get(node.name)
            if status is not None and status.progress is not None and self.is_member(node):
                told.append((status.head.height, node.node_id, status.progress))
        return world_verdict(told)

    @property
    def writer(self) -> Writer:
        """Who holds the Lease and in which term, as the API server has it."""
        return writer_of(self.lease)

    def lease_trouble(self) -> tuple[str, str] | None:
        """Returns reason and message of what somebody has done to the Lease, None when nobody has."""
        if self.directory is None:
            return None
        known = [*(node.node_id for node in self.validators), *(item.member_id for item in self.directory.members)]
        name = names.sequencer_lease(self.topology.world.name)
        return trouble_of(name, self.writer, self.last_writer, known)

    def can_vote(self, node: NodePlan) -> bool:
        """True when the node is a member, at the head, and has a key that counts."""
        status = self.statuses.get(node.name)
        return self.is_member(node) and status is not None and status.in_sync and status.voting

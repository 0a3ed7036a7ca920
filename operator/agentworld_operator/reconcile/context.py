"""What one reconcile works with: its neighbours, its settings, and everything it has read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from agentworld_core.messages import Directory, Equivocation
from agentworld_core.topology.fields import InvalidManifest
from agentworld_core.topology.resources import MembershipKey, Validator, World
from agentworld_operator.kube.port import KubeApi
from agentworld_operator.nodes.port import NodeApi
from agentworld_operator.plan.pods import Image
from agentworld_operator.reconcile.apply import Settled
from agentworld_operator.reconcile.reported import Reported
from agentworld_operator.resources.objects import Object


def wall_clock_ms() -> int:
    """Returns milliseconds since the Unix epoch: data for documents and statuses, never a safety decision."""
    return time.time_ns() // 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator was started with."""

    image: Image
    operator_namespace: str = "default"
    acknowledge_timeout_ms: int = 60_000
    """How long a rotation waits for every node before a quorum of them is enough."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """The neighbours and the memory of the reconcilers; the memory only saves requests and may be lost."""

    kube: KubeApi
    nodes: NodeApi
    settings: Settings
    now_ms: Callable[[], int] = wall_clock_ms
    settled: Settled = dataclasses.field(default_factory=Settled)
    reported: Reported = dataclasses.field(default_factory=Reported)
    directories: dict[str, Directory] = dataclasses.field(default_factory=dict)
    """The newest directory of each world that was checked back to its genesis, by the hash of the first."""
    evidence: dict[str, Equivocation | None] = dataclasses.field(default_factory=dict)
    """Proofs that were checked, by their content ids; None for what proves nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything of one world in the API server, read fresh; manifests that break a rule are in ``invalid``."""

    raw_world: Object
    raw_validators: Mapping[str, Object]
    raw_keys: Mapping[str, Object]
    world: World | None
    validators: tuple[Validator, ...]
    keys: tuple[MembershipKey, ...]
    invalid: Mapping[str, InvalidManifest]
    children: dict[str, dict[str, Object]]

    def child(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """Returns an object made for the world."""
        return self.children.get(kind, {}).get(name)

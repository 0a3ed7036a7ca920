"""What the reconcilers need of the nodes, and nothing more."""

from __future__ import annotations

from typing import Protocol

from agentworld_core.consensus.evidence import Evidence
from agentworld_core.messages import Directory, Genesis, Revocation
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_operator.nodes.status import NodeStatus


class NodeApi(Protocol):
    """Speaks to one node at a time; every method raises NodeUnreachable or NodeRefused."""

    async def status(self, address: str) -> NodeStatus:
        """Returns what the node says about itself."""
        ...

    async def genesis(self, address: str) -> Genesis:
        """Returns the genesis document that the node began with."""
        ...

    async def directory(self, address: str, epoch: int) -> Directory:
        """Returns a directory epoch that the node holds."""
        ...

    async def evidence(self, address: str) -> Evidence:
        """Returns the proofs that the node holds of validators that voted twice; they prove themselves, or nothing."""
        ...

    async def push_directory(self, address: str, directory: Directory) -> None:
        """Hands a signed directory to the node; the same one twice is fine."""
        ...

    async def push_revocation(self, address: str, statement: Revocation, *, force: bool) -> None:
        """Hands a signed revocation to the node; the same one twice is fine, ``force`` spares no governance key."""
        ...

    async def transfer_writer(self, address: str, wish: WriterTransfer) -> None:
        """Has the node see to it that the writer lease goes where governance wants it; returns when it has."""
        ...

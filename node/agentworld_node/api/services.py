"""What the HTTP handlers need of a node, and nothing more."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from agentworld_core.consensus.evidence import Evidence
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import (
    ActionEnvelope,
    BlockBundle,
    Directory,
    Equivocation,
    Genesis,
    Revocation,
    Revocations,
    WorldHeadAnnounce,
)
from agentworld_core.ordering.rate import RateLimit
from agentworld_core.ordering.transfer import Writer, WriterTransfer
from agentworld_node.metrics import Metrics

Submission = dict[str, Any] | AgentWorldError
"""The outcome of one submitted action: its receipt as JSON, or why it was refused."""


class LedgerReader(Protocol):
    """Reads the committed ledger of a node."""

    genesis: Genesis
    genesis_hash: str

    @property
    def height(self) -> int: ...
    def bundle(self, height: int) -> BlockBundle | None: ...
    def encoded_blocks(self, start: int, *, limit: int, max_bytes: int) -> bytes: ...
    def height_of(self, block_hash: str) -> int | None: ...
    def directory(self, epoch: int | None) -> Directory | None: ...
    def read_state(self, key: str, *, proof: bool) -> dict[str, Any]: ...
    def list_state(self, prefix: str, *, after: str, limit: int, max_bytes: int) -> dict[str, Any]: ...
    def blob(self, content_hash: str) -> bytes: ...
    def block_events(self, height: int) -> dict[str, Any]: ...
    async def wait_height(self, height: int, *, seconds: float) -> bool: ...


class Gateway(Protocol):
    """Takes actions and answers for them."""

    async def submit(self, actions: Sequence[ActionEnvelope], *, source: str = "") -> list[Submission]: ...
    async def wait_committed(self, results: Sequence[Submission], *, seconds: float) -> list[Submission]: ...
    def answer_waiting(self) -> None: ...
    def receipt(self, action_id: str) -> dict[str, Any]: ...


class Membership(Protocol):
    """Takes what governance has signed."""

    async def submit_directory(self, proposed: Directory) -> dict[str, Any]: ...
    async def submit_revocation(self, statement: Revocation, *, force: bool) -> dict[str, Any]: ...
    def revocations(self) -> Revocations: ...


class EvidenceHolder(Protocol):
    """Holds the proofs that validators voted twice."""

    def all(self) -> Evidence: ...
    def get(self, content_hash: str) -> Equivocation | None: ...


class WriterControl(Protocol):
    """Says who writes, and hands the lease over."""

    async def writer(self) -> Writer: ...
    async def transfer(self, wish: WriterTransfer) -> Writer: ...


@dataclasses.dataclass(frozen=True)
class Services:
    """The parts of a node that the API serves; ``failure`` and ``not_ready`` return a reason, or None.

    ``rate_limit`` is that of each client, None for no limit.
    """

    ledger: LedgerReader
    gateway: Gateway
    membership: Membership
    evidence: EvidenceHolder
    handover: WriterControl
    metrics: Metrics
    rate_limit: RateLimit | None
    head: Callable[[], WorldHeadAnnounce | None]
    status: Callable[[], dict[str, Any]]
    consensus: Callable[[], dict[str, Any]]
    failure: Callable[[], str | None]
    not_ready: Callable[[], str | None]
    stopping: asyncio.Event

"""What was seen of a world from outside: actions acknowledged, heads read, faults; times in seconds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Acknowledged:
    """A gateway said that an action is committed, in an answer to a request of ``began`` that came at ``ended``."""

    action_id: str
    height: int
    node: str
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Read:
    """A node showed this block as its head, or handed it to a follower, somewhen between ``began`` and ``ended``."""

    node: str
    height: int
    block_hash: str
    state_root: str
    term: int
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block as a node's ledger has it in the end."""

    height: int
    block_hash: str
    parent_hash: str
    state_root: str
    term: int
    attempt: int
    proposer: str
    actions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A fault, from when it was brought about to when all of it was healed."""

    kind: str
    nodes: tuple[str, ...]
    began: float
    healed: float


@dataclass
class History:
    """All of a run.

    ``replayed`` is height and state root as ``agentworld verify --replay`` says them; ``noted`` is what the runner saw
    itself and that must not be: a check's name, and what there was.
    """

    sent: dict[str, float] = field(default_factory=dict)
    acknowledged: list[Acknowledged] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    follows: dict[str, list[Read]] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    ledgers: dict[str, list[Block]] = field(default_factory=dict)
    replayed: tuple[int, str] | None = None
    noted: list[tuple[str, str]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Writes all of it as JSON, for whoever looks into a violation."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

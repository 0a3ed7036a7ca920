"""What is known at a height: enough to judge the next block and every certificate up to now.

With the state it is also enough to execute the next block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from agentworld_core.errors import InvalidField, NotFound, StateMismatch
from agentworld_core.ledger.errors import DirectoryPending
from agentworld_core.membership.directory import (
    check_next_directory,
    directory_hash,
    is_expired,
    usable_governance,
)
from agentworld_core.messages import Directory, DirectoryChange, Parameters, Round
from agentworld_core.world.modules.governance import Governance
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.state import DirectoryRecord, directory_key, read
from agentworld_core.world.tree import Tree


@dataclass(frozen=True, slots=True)
class ScheduledDirectory:
    """A directory epoch, the hash that blocks name it by, and the first height that it governs."""

    directory: Directory
    directory_hash: str
    effective_height: int


@dataclass(frozen=True, kw_only=True)
class ChainLinks:
    """The head of a chain without its state: enough to judge who made the next block, and on top of what.

    ``round`` is the one in which the head was made. The directories are in order, oldest first; the last one may not be
    in force yet.
    """

    world_id: str
    genesis_hash: str
    parameters: Parameters
    height: int
    block_hash: str
    state_root: str
    round: Round
    time_ms: int
    directories: tuple[ScheduledDirectory, ...]

    @property
    def next_height(self) -> int:
        """The height of the block that follows the head."""
        return self.height + 1

    @property
    def term(self) -> int:
        """The lease term of the head, below which nothing counts any more."""
        return self.round.term

    @property
    def pending(self) -> ScheduledDirectory | None:
        """The directory that is scheduled but does not govern the next block yet, if any."""
        last = self.directories[-1]
        return last if last.effective_height > self.next_height else None

    @property
    def horizon(self) -> int:
        """The highest height whose directory is settled, whatever the next blocks hold."""
        return max(self.next_height, self.directories[-1].effective_height)

    def scheduled_at(self, height: int) -> ScheduledDirectory:
        """Returns the directory that governs a height, with its hash; raises NotFound above the horizon and below 1."""
        if not 1 <= height <= self.horizon:
            says = f"the directory is known for heights 1 to {self.horizon}"
            raise NotFound(says, field="height", value=height)
        for entry in reversed(self.directories):
            if entry.effective_height <= height:
                return entry
        raise NotFound("no directory governs this height", field="height", value=height)

    def directory_at(self, height: int) -> Directory:
        """Returns the directory that governs a height; raises NotFound above the horizon and below 1."""
        return self.scheduled_at(height).directory


@dataclass(frozen=True, kw_only=True)
class ChainState(ChainLinks):
    """The head of a chain with its state, whose root is ``state_root``: enough to execute the next block as well.

    ``snapshot_tree`` is the state of the last snapshot: what is stored already when the next one is cut. ``sandbox`` is
    what runs the modules of the world on this machine; it is no part of the chain, and the same chain with another one
    is the same chain.
    """

    tree: Tree
    snapshot_tree: Tree
    sandbox: Sandbox | None = field(default=None, compare=False, repr=False)


def with_state(links: ChainLinks, tree: Tree, *, since: Tree, sandbox: Sandbox | None = None) -> ChainState:
    """Returns the head of a chain together with its state; ``since`` is the state of the last snapshot before it."""
    at_snapshot = links.height % links.parameters.snapshot_interval == 0
    return ChainState(
        **{item.name: getattr(links, item.name) for item in fields(ChainLinks)},
        tree=tree,
        snapshot_tree=tree if at_snapshot else since,
        sandbox=sandbox,
    )


def governance_of(directory: Directory) -> Governance:
    """Returns whose signatures change modules and rules at the heights that a directory governs."""
    keys = tuple([key.key_id for key in usable_governance(directory)])
    return Governance(keys, directory.governance_threshold)


def plan_directory_change(chain: ChainLinks, proposed: Directory, *, time_ms: int) -> ScheduledDirectory:
    """Returns when a directory carried by the next block comes into force.

    Raises DirectoryPending while another change is in flight, InvalidField when it has expired at the block's time, and
    what ``check_next_directory`` raises.
    """
    if chain.pending is not None:
        epoch, height = chain.pending.directory.epoch, chain.pending.effective_height
        raise DirectoryPending(f"epoch {epoch} comes into force at height {height}", field="directory", value=epoch)
    check_next_directory(chain.directories[-1].directory, proposed)
    if is_expired(proposed, time_ms):
        raise InvalidField("has expired", field="expires_at_ms", value=proposed.expires_at_ms)
    return ScheduledDirectory(proposed, directory_hash(proposed), chain.next_height + proposed.activation_delay)


def change_of(scheduled: ScheduledDirectory) -> DirectoryChange:
    """Returns the statement by which a block announces a scheduled directory."""
    return DirectoryChange(
        epoch=scheduled.directory.epoch,
        directory_hash=scheduled.directory_hash,
        effective_height=scheduled.effective_height,
    )


def directories_from_state(tree: Tree, directories: Iterable[Directory]) -> tuple[ScheduledDirectory, ...]:
    """Returns the directory schedule that a state records, given the documents from epoch 1 on, in order.

    The state says which documents and since when; the documents prove each other; later epochs than the state knows are
    left out. Raises StateMismatch when a document is not the one that the state names, or one is missing.
    """
    found: list[ScheduledDirectory] = []
    for directory in directories:
        record = read(tree, directory_key(directory.epoch), DirectoryRecord)
        if record is None:
            break
        if found:
            check_next_directory(found[-1].directory, directory)
        if record.directory_hash != directory_hash(directory):
            raise StateMismatch("is not the epoch that the state names", field="directory", value=directory.epoch)
        found.append(ScheduledDirectory(directory, record.directory_hash, record.effective_height))
    last = found[-1].directory.epoch if found else 0
    if not found or read(tree, directory_key(last + 1), DirectoryRecord) is not None:
        raise StateMismatch(f"epoch {last + 1} is missing", field="directory", value=last)
    return tuple(found)

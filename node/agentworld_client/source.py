"""Where an auditor reads a world from: a node's gateway, a data folder or an archive, none of which is believed."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from agentworld_core.messages import BlockBundle, Directory, Genesis


@dataclasses.dataclass(frozen=True)
class Tip:
    """The newest block that a source claims to have."""

    height: int
    block_hash: str
    state_root: str


class WorldSource(Protocol):
    """Reads one world. What is not there raises an error whose code ends in ``not_found``."""

    async def genesis(self) -> Genesis:
        """Returns the genesis document."""
        ...

    async def tip(self) -> Tip | None:
        """Returns what the source claims to be the newest block, None before the first."""
        ...

    async def blocks(self, start: int, *, limit: int = 64) -> tuple[BlockBundle, ...]:
        """Returns consecutive blocks from a height on, with batches and certificates; empty behind the last."""
        ...

    async def block(self, block: str | int) -> BlockBundle:
        """Returns the block of a height or hash."""
        ...

    async def height_of_action(self, action_id: str) -> int | None:
        """Returns the height at which the source claims an action to be committed, None while it only waits."""
        ...

    async def directory(self, epoch: int | None = None) -> Directory:
        """Returns a directory epoch, the latest by default."""
        ...

    async def blob(self, content_hash: str) -> bytes:
        """Returns the bytes of a content id, checked against it."""
        ...

"""The refusals of the ledger that a caller must tell apart from an ordinary mismatch."""

from __future__ import annotations

from agentworld_core.errors import StateMismatch
from agentworld_core.messages import WorldHeadAnnounce


class ExecutionMismatch(StateMismatch):
    """Executing a block's batch here does not give what the block says; ``field`` and ``height`` say where.

    For a proposal it means that the proposer is wrong. For a block with a valid certificate it means that this node and
    a quorum disagree: the node must stop, and not blame the peer that sent it.
    """

    code = "execution_mismatch"

    def __init__(self, height: int, field: str, *, stated: object, executed: object):
        super().__init__(f"height {height}: execution gives {executed}", field=f"block.{field}", value=stated)
        self.height = height


class DirectoryPending(StateMismatch):
    """Another directory epoch is scheduled and not in force yet; only one change may be in flight."""

    code = "directory_pending"


class HeadConflict(StateMismatch):
    """Another block of a height than the one this node has committed (``known_hash``) has a valid certificate, too.

    ``head`` carries it.
    """

    code = "head_conflict"

    def __init__(self, head: WorldHeadAnnounce, *, known_hash: str):
        says = f"height {head.height} is certified twice: {known_hash} and {head.block_hash}"
        super().__init__(says, field="block_hash", value=head.block_hash)
        self.head = head
        self.known_hash = known_hash

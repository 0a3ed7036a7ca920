"""Which keys count on this node: its own to sign with, and everybody's revocations, known at once and kept for ever."""

from __future__ import annotations

from collections.abc import Callable

from agentworld_core.membership.directory import find_member
from agentworld_core.membership.revocation import RevocationSet
from agentworld_core.messages import Directory
from agentworld_core.signing import Ed25519Signer
from agentworld_node.keys import KeyFolder


class NodeKeyring:
    """Joins the key folder, the directory in force and the revocations that this node knows."""

    def __init__(
        self,
        *,
        node_id: str,
        folder: KeyFolder,
        revocations: RevocationSet,
        directory_at: Callable[[int], Directory],
    ):
        self.node_id = node_id
        self.folder = folder
        self.revocations = revocations
        self._directory_at = directory_at

    def revoked_key_ids(self) -> frozenset[str]:
        """Returns the keys that no longer count for live messages."""
        return self.revocations.key_ids

    def signer_at(self, height: int) -> Ed25519Signer | None:
        """Returns the key this node signs with at a height: None when it is no member, or has no key that counts."""
        member = find_member(self._directory_at(height), self.node_id)
        if member is None:
            return None
        return self.folder.choose(member.keys, self.revocations.key_ids)

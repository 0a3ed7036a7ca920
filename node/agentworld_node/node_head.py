"""The head that a node announces: its newest committed block, with the certificate, signed by the node."""

from __future__ import annotations

from agentworld_core.errors import NotFound
from agentworld_core.messages import WorldHeadAnnounce
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_node.ledger import Ledger
from agentworld_node.roles.keyring import NodeKeyring


class OwnHead:
    """Signs each head once; with the identity of the node where it has no key that counts."""

    def __init__(self, *, ledger: Ledger, keyring: NodeKeyring, identity: Ed25519Signer):
        self._ledger = ledger
        self._keyring = keyring
        self._identity = identity
        self._newest: WorldHeadAnnounce | None = None

    def newest(self) -> WorldHeadAnnounce | None:
        """Returns the newest committed head, None before the first block; NotFound when its certificate is missing."""
        chain = self._ledger.chain
        if chain.height == 0:
            return None
        if self._newest is None or self._newest.block_hash != chain.block_hash:
            certificate = self._ledger.certificate(chain.height)
            if certificate is None:
                raise NotFound("the certificate of the head is missing", field="height", value=chain.height)
            announce = WorldHeadAnnounce(
                world_id=chain.world_id,
                height=chain.height,
                block_hash=chain.block_hash,
                state_root=chain.state_root,
                timestamp_ms=chain.time_ms,
                signature=b"",
                term=chain.term,
                directory_epoch=certificate.directory_epoch,
                announcer_id=self._keyring.node_id,
                key_id="0" * 32,
                certificate=certificate,
            )
            self._newest = sign(announce, self._keyring.signer_at(chain.height + 1) or self._identity)
        return self._newest

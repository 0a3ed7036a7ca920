"""What an announced head proves (runtime spec section 14.2, D4, W33)."""

from __future__ import annotations

from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.errors import StateMismatch, WrongWorld
from agentworld_core.messages import Directory, WorldHeadAnnounce


def check_head(head: WorldHeadAnnounce, directory: Directory) -> None:
    """Raises a typed error unless the head's certificate proves that this directory's quorum committed its block.

    ``directory`` is the one in force at the head's height. Who announces a head does not matter, and what the
    certificate does not prove, such as the state root, is for nobody to believe: blocks are fetched and executed.
    """
    certificate = head.certificate
    if head.world_id != directory.world_id:
        raise WrongWorld("is another world", field="world_id", value=head.world_id)
    for field, stated, expected in (
        ("directory_epoch", head.directory_epoch, directory.epoch),
        ("certificate.world_id", certificate.world_id, head.world_id),
        ("certificate.height", certificate.height, head.height),
        ("certificate.block_hash", certificate.block_hash, head.block_hash),
    ):
        if stated != expected:
            raise StateMismatch(f"must be {expected}", field=field, value=stated)
    if head.term > certificate.term:
        # That of the block, which may have been decided in a later one only.
        raise StateMismatch(f"must be at most {certificate.term}", field="term", value=head.term)
    check_certificate(certificate, directory)

"""Commit certificates: proof that a quorum of one directory epoch precommitted a block, checkable by anyone offline."""

from __future__ import annotations

from collections.abc import Iterable

from agentworld_core.errors import (
    AgentWorldError,
    InvalidField,
    InvalidSignature,
    StateMismatch,
    Unauthorized,
    WrongWorld,
)
from agentworld_core.membership.directory import find_member, key_in_directory, quorum_weight
from agentworld_core.messages import PRECOMMIT, CertificateVote, CommitCertificate, Directory, Vote
from agentworld_core.signing import signed_bytes, verify_bytes


def check_certificate(certificate: CommitCertificate, directory: Directory) -> None:
    """Raises a typed error that names the field unless a quorum of the directory signed the certificate's precommit.

    ``directory`` is the one in force at the certificate's height. Every vote must be by another member, with a key that
    this epoch trusts for it, and verify; one bad vote spoils the certificate.
    """
    if certificate.world_id != directory.world_id:
        raise WrongWorld("is another world", field="world_id", value=certificate.world_id)
    if certificate.directory_epoch != directory.epoch:
        says = f"epoch {directory.epoch} is in force at height {certificate.height}"
        raise StateMismatch(says, field="directory_epoch", value=certificate.directory_epoch)
    weight = 0
    seen: dict[str, int] = {}
    for index, item in enumerate(certificate.votes):
        field = f"votes[{index}]"
        if item.validator_id in seen:
            says = f"has voted at votes[{seen[item.validator_id]}] already"
            raise InvalidField(says, field=f"{field}.validator_id", value=item.validator_id)
        seen[item.validator_id] = index
        weight += _check_vote(certificate, item, directory, field=field)
    needed = quorum_weight(directory)
    if weight < needed:
        raise Unauthorized(f"needs weight {needed}, has {weight}", field="votes")


def vote_in(certificate: CommitCertificate, item: CertificateVote) -> Vote:
    """Returns the precommit that one entry of the certificate stands for."""
    return Vote(
        world_id=certificate.world_id,
        height=certificate.height,
        term=certificate.term,
        attempt=certificate.attempt,
        phase=PRECOMMIT,
        block_hash=certificate.block_hash,
        directory_epoch=certificate.directory_epoch,
        validator_id=item.validator_id,
        key_id=item.key_id,
        signature=item.signature,
    )


def certificate_of(votes: Iterable[Vote]) -> CommitCertificate:
    """Returns the certificate made of precommits that all name the same block, height, round and epoch."""
    ordered = sorted(votes, key=lambda vote: vote.validator_id)
    if not ordered or ordered[0].block_hash is None:
        raise InvalidField("must be precommits of a block", field="votes")
    first = ordered[0]
    certificate = CommitCertificate(
        world_id=first.world_id,
        height=first.height,
        term=first.term,
        attempt=first.attempt,
        block_hash=ordered[0].block_hash,
        directory_epoch=first.directory_epoch,
        votes=tuple(CertificateVote(v.validator_id, v.key_id, v.signature) for v in ordered),
    )
    for vote, item in zip(ordered, certificate.votes, strict=True):
        if vote_in(certificate, item) != vote:
            raise InvalidField("must all be the same precommit", field="votes", value=vote.validator_id)
    return certificate


def _check_vote(certificate: CommitCertificate, item: CertificateVote, directory: Directory, *, field: str) -> int:
    """Returns the weight of the entry's member, or raises."""
    try:
        key = key_in_directory(directory, item.validator_id, item.key_id)
    except AgentWorldError as error:
        error.field = f"{field}.{'validator_id' if error.field == 'member_id' else error.field}"
        raise
    if not verify_bytes(key.public_key, item.signature, signed_bytes(vote_in(certificate, item))):
        raise InvalidSignature("does not verify", field=f"{field}.signature", value=item.validator_id)
    member = find_member(directory, item.validator_id)
    return member.weight if member is not None else 0

"""A proof that a validator voted twice in one file, with all that is needed to check it without any node."""

from __future__ import annotations

from typing import Annotated

from agentworld_core.codec import items_up_to, message
from agentworld_core.consensus.evidence import check_equivocation
from agentworld_core.errors import HashMismatch, StateMismatch, WrongWorld
from agentworld_core.ledger.genesis import check_genesis, genesis_hash
from agentworld_core.membership.directory import check_next_directory
from agentworld_core.messages import Directory, Equivocation, Genesis

MAX_EPOCHS = 4096


@message(71, "evidence_file")
class EvidenceFile:
    """A genesis, every directory epoch after its own up to the one that the votes name, and the two votes."""

    genesis: Genesis
    directories: Annotated[tuple[Directory, ...], items_up_to(MAX_EPOCHS)]
    evidence: Equivocation


def check_evidence_file(file: EvidenceFile, *, trusted_genesis: str | None = None) -> Directory:
    """Returns the directory that the votes are judged by; raises a typed error unless the file proves what it says.

    The genesis must hash to the trusted one where that is given, each directory must follow from the one before, and
    both votes must verify under the epoch that they name and contradict each other.
    """
    found = genesis_hash(file.genesis)
    if trusted_genesis is not None and trusted_genesis != found:
        raise HashMismatch(f"is not the genesis of the file, {found}", field="genesis", value=trusted_genesis)
    check_genesis(file.genesis)
    directory = file.genesis.directory
    for following in file.directories:
        check_next_directory(directory, following)
        directory = following
    vote = file.evidence.first
    if vote.world_id != file.genesis.world_id:
        raise WrongWorld("is another world", field="evidence.first.world_id", value=vote.world_id)
    if vote.directory_epoch != directory.epoch:
        says = f"is not the last epoch of the file, {directory.epoch}"
        raise StateMismatch(says, field="evidence.first.directory_epoch", value=vote.directory_epoch)
    check_equivocation(file.evidence, directory)
    return directory

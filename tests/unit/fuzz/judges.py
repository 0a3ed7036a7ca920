"""What a node does next with a message that has been decoded: the checks that must be as typed as the decoder is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentworld_client.documents import document
from agentworld_core.consensus.certificates import check_certificate
from agentworld_core.consensus.evidence import check_equivocation
from agentworld_core.consensus.verify import verify_proposal, verify_vote
from agentworld_core.ledger.follow import check_head
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.membership.directory import check_first_directory, check_next_directory
from agentworld_core.membership.revocation import check_revocation
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    CommitCertificate,
    Directory,
    Equivocation,
    Genesis,
    ProposalBody,
    Revocation,
    Vote,
    WorldEvent,
    WorldHeadAnnounce,
)
from agentworld_core.ordering.batch import BatchLimits, check_batch
from agentworld_core.world.actions import check_admission
from agentworld_core.world.kernel import replay_events
from wirespec.samples import WORLD, SmallWorld


def judges(world: SmallWorld) -> dict[type[Any], Callable[[Any], object]]:
    """Returns the check of each kind of message, before the first block of the small world."""
    directory, chain, tree = world.genesis.directory, world.chain, world.execution.tree

    def judge_directory(proposed: Directory) -> object:
        return (check_next_directory if proposed.epoch > 1 else _first)(directory, proposed)

    return {
        ActionEnvelope: lambda action: check_admission(tree, action, world_id=WORLD, now_ms=10**13),
        ActionBatch: lambda batch: check_batch(batch, world_id=WORLD, limits=BatchLimits()),
        BlockBundle: lambda bundle: (check_bundle(chain, bundle), document(bundle)),
        CommitCertificate: lambda certificate: check_certificate(certificate, directory),
        Directory: judge_directory,
        Equivocation: lambda evidence: check_equivocation(evidence, directory),
        Genesis: chain_from_genesis,
        ProposalBody: lambda body: verify_proposal(directory, (), body),
        Revocation: lambda statement: check_revocation(statement, directory),
        Vote: lambda vote: verify_vote(directory, (), vote),
        WorldEvent: lambda event: replay_events(chain.tree, [event]),
        WorldHeadAnnounce: lambda head: check_head(head, directory),
    }


def _first(_current: Directory, proposed: Directory) -> None:
    check_first_directory(proposed)

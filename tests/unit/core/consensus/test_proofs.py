"""A revoked key decides nothing new, but what others are locked on because of it can still be proven."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentworld_core.consensus.events import BroadcastProposal, LeaseObserved, ProposalReceived, VoteReceived
from agentworld_core.consensus.verify import receive_proposal, receive_vote
from agentworld_core.errors import InvalidSignature, KeyRevoked
from agentworld_core.messages import PRECOMMIT, PREVOTE
from tests.unit.core.consensus.bench import FOUR, Bench, R, only, proposal, vote
from tests.unit.core.consensus.test_engine import cast
from tests.unit.core.membership.worlds import signer

REVOKED = [signer("d").key_id]
BODY = proposal("b", R(1, 0))


def test_live_messages_are_marked_when_their_key_is_revoked() -> None:
    assert receive_vote(FOUR, (), vote("d", R(1, 0), PREVOTE, BODY)) == VoteReceived(vote("d", R(1, 0), PREVOTE, BODY))
    assert receive_vote(FOUR, REVOKED, vote("d", R(1, 0), PREVOTE, BODY)).as_proof
    assert receive_proposal(FOUR, [signer("b").key_id], BODY) == ProposalReceived(BODY, as_proof=True)
    assert not receive_proposal(FOUR, REVOKED, BODY).as_proof


@pytest.mark.parametrize(("phase", "value"), [(PREVOTE, None), (PRECOMMIT, None), (PRECOMMIT, BODY)])
def test_only_a_prevote_for_a_block_can_be_a_proof(phase: int, value: object) -> None:
    with pytest.raises(KeyRevoked):
        receive_vote(FOUR, REVOKED, vote("d", R(1, 0), phase, value))  # type: ignore[arg-type]


def test_a_forged_proof_is_no_proof() -> None:
    with pytest.raises(InvalidSignature):
        receive_vote(FOUR, REVOKED, replace(vote("d", R(1, 0), PREVOTE, BODY), attempt=1))


def test_a_vote_under_a_revoked_key_does_not_count_in_the_current_round() -> None:
    bench = Bench()
    bench.propose(BODY)
    bench.hear(vote("b", R(1, 0), PREVOTE, BODY))
    proof = VoteReceived(vote("d", R(1, 0), PREVOTE, BODY), as_proof=True)
    assert cast(bench.give(proof)) == []
    ahead = VoteReceived(vote("d", R(1, 7), PREVOTE, BODY), as_proof=True)
    assert bench.give(ahead) == []
    assert bench.give(VoteReceived(vote("d", R(1, 0), PREVOTE, BODY, height=2), as_proof=True)) == []


def test_it_proves_the_quorum_of_a_past_round() -> None:
    """``b`` and ``c`` are locked because of ``d``; this node, which knows of the revocation, can still follow them."""
    bench = Bench()
    bench.propose(BODY)
    bench.hear(vote("b", R(1, 0), PREVOTE, BODY))
    bench.give(LeaseObserved(2, "c"))
    bench.give(VoteReceived(vote("d", R(1, 0), PREVOTE, BODY), as_proof=True))
    sent = only(bench.give(LeaseObserved(3, "a")), BroadcastProposal)
    assert [item.body.block for item in sent] == [BODY.block]
    assert (sent[0].body.proposal.valid_term, sent[0].body.proposal.valid_attempt) == (1, 0)


def test_a_proposal_under_a_revoked_key_is_never_voted_on_but_its_block_is_kept_if_others_voted_for_it() -> None:
    bench = Bench()
    assert cast(bench.give(ProposalReceived(BODY, as_proof=True))) == []
    bench.hear(*(vote(name, R(1, 0), PRECOMMIT, BODY) for name in "bcd"))
    assert len(bench.give(ProposalReceived(BODY, as_proof=True))) > 0

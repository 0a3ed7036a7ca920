"""A revoked key decides nothing, but what moved others before they knew of the revocation can still be proven."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentworld_core.consensus.events import BroadcastProposal, Commit, LeaseObserved, ProposalReceived, VoteReceived
from agentworld_core.consensus.verify import receive_proposal, receive_vote
from agentworld_core.errors import InvalidSignature
from agentworld_core.messages import PRECOMMIT, PREVOTE
from tests.unit.core.consensus.bench import FOUR, Bench, R, only, proposal, vote
from tests.unit.core.consensus.test_engine import cast
from tests.unit.core.membership.worlds import signer

REVOKED = [signer("d").key_id]
BODY = proposal("b", R(1, 0))


def test_live_messages_are_marked_when_their_key_is_revoked() -> None:
    mine = vote("d", R(1, 0), PREVOTE, BODY)
    assert receive_vote(FOUR, (), mine) == VoteReceived(mine)
    assert receive_vote(FOUR, REVOKED, mine) == VoteReceived(mine, revoked=True)
    assert receive_proposal(FOUR, [signer("b").key_id], BODY) == ProposalReceived(BODY, revoked=True)
    assert receive_proposal(FOUR, REVOKED, BODY) == ProposalReceived(BODY)


def test_a_forged_proof_is_no_proof() -> None:
    with pytest.raises(InvalidSignature):
        receive_vote(FOUR, REVOKED, replace(vote("d", R(1, 0), PREVOTE, BODY), attempt=1))


@pytest.mark.box("S25.1", "revoked-member")
def test_a_vote_under_a_revoked_key_locks_and_decides_nothing() -> None:
    bench = Bench()
    bench.propose(BODY)
    bench.hear(vote("b", R(1, 0), PREVOTE, BODY))
    assert cast(bench.give(VoteReceived(vote("d", R(1, 0), PREVOTE, BODY), revoked=True))) == []
    bench.hear(vote("c", R(1, 0), PREVOTE, BODY), vote("b", R(1, 0), PRECOMMIT, BODY))
    assert not only(bench.give(VoteReceived(vote("d", R(1, 0), PRECOMMIT, BODY), revoked=True)), Commit)
    commit = only(bench.hear(vote("c", R(1, 0), PRECOMMIT, BODY)), Commit)[0]
    assert [item.validator_id for item in commit.certificate.votes] == ["a", "b", "c"]


def test_it_helps_to_leave_a_round_that_others_have_left_because_of_it() -> None:
    bench = Bench()
    bench.fire("propose")
    bench.hear(vote("b", R(1, 0), PREVOTE, None))
    assert cast(bench.give(VoteReceived(vote("d", R(1, 0), PREVOTE, None), revoked=True))) == [(PRECOMMIT, None)]


def test_it_proves_the_quorum_of_a_past_round() -> None:
    """``b`` and ``c`` are locked because of ``d``; this node, which knows of the revocation, can still follow them."""
    bench = Bench()
    bench.propose(BODY)
    bench.hear(vote("b", R(1, 0), PREVOTE, BODY))
    bench.give(LeaseObserved(2, "c"))
    bench.give(VoteReceived(vote("d", R(1, 0), PREVOTE, BODY), revoked=True))
    sent = only(bench.give(LeaseObserved(3, "a")), BroadcastProposal)
    assert [item.body.block for item in sent] == [BODY.block]
    assert (sent[0].body.proposal.valid_term, sent[0].body.proposal.valid_attempt) == (1, 0)


def test_a_proposal_under_a_revoked_key_is_never_voted_on_but_its_block_is_kept_if_others_voted_for_it() -> None:
    bench = Bench()
    assert cast(bench.give(ProposalReceived(BODY, revoked=True))) == []
    bench.hear(*(vote(name, R(1, 0), PRECOMMIT, BODY) for name in "bcd"))
    assert len(bench.give(ProposalReceived(BODY, revoked=True))) > 0

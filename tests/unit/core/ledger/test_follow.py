from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.errors import AgentWorldError, InvalidSignature, StateMismatch, Unauthorized, WrongWorld
from agentworld_core.ledger.errors import HeadConflict
from agentworld_core.ledger.follow import Verdict, check_head, select_head
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.messages import BlockBundle
from agentworld_core.signing import sign
from tests.unit.core.ledger.chains import Chain, make_certificate, make_head, resign
from tests.unit.core.membership.worlds import signer


def a_chain(height: int) -> Chain:
    chain = Chain()
    for _ in range(height):
        chain.commit()
    return chain


CHAIN = a_chain(5)
HEADS = [make_head(bundle) for bundle in CHAIN.bundles]
NEXT = CHAIN.propose()
OTHER_NEXT = CHAIN.propose(proposer="b")


@pytest.mark.box("29.7", "best", "conflict", "known", "others")
@pytest.mark.box("S25.2", "never-lower")
def test_the_worked_example_of_the_specification():
    state = CHAIN.state
    head4, head5 = HEADS[3], HEADS[4]
    b, c = make_head(NEXT, timestamp_ms=10), make_head(OTHER_NEXT, timestamp_ms=9)
    choice = select_head(state, [head4, head5, b])
    assert (choice.verdict, choice.targets) == (Verdict.APPLY, (b,))
    applied = a_chain(5)
    applied.commit()
    with pytest.raises(HeadConflict):
        select_head(applied.state, [c])
    assert select_head(applied.state, [b]).verdict is Verdict.DUPLICATE
    assert select_head(applied.state, [head5]).verdict is Verdict.STALE
    foreign = dataclasses.replace(b, world_id="borealis")
    choice = select_head(applied.state, [foreign])
    assert choice.verdict is Verdict.NOTHING
    assert isinstance(choice.refused[0][1], WrongWorld)


@pytest.mark.box("29.7", "ties")
@pytest.mark.box("S3.3", "fork")
@pytest.mark.box("S25.2", "two-heads")
def test_two_certified_blocks_of_one_height_are_evidence():
    b, c = make_head(NEXT), make_head(OTHER_NEXT)
    with pytest.raises(HeadConflict) as caught:
        select_head(CHAIN.state, [b, c])
    assert (caught.value.first, caught.value.second) == (b, c)
    assert caught.value.code == "head_conflict"


@pytest.mark.box("S8.2", "no-way-back")
@pytest.mark.box("S3.3", "fork")
def test_a_certified_block_against_the_own_head_is_evidence():
    state = a_chain(4)
    other = make_head(state.propose(proposer="b"))
    with pytest.raises(HeadConflict) as caught:
        select_head(CHAIN.state, [other])
    assert (caught.value.first, caught.value.known_hash) == (None, CHAIN.state.block_hash)


@pytest.mark.box("29.7", "ties")
@pytest.mark.box("S1.2", "announcement")
def test_without_a_quorum_there_is_no_conflict():
    """D4: what nobody certified proves nothing against what is certified."""
    few = make_head(dataclasses.replace(OTHER_NEXT, certificate=make_certificate(OTHER_NEXT.block, voters="ab")))
    good = make_head(NEXT)
    choice = select_head(CHAIN.state, [few, good])
    assert choice.targets == (good,)
    assert [head for head, _ in choice.refused] == [few]
    assert isinstance(choice.refused[0][1], Unauthorized)


def test_heads_beyond_the_horizon_are_places_to_ask_highest_first():
    state = chain_from_genesis(CHAIN.genesis)
    choice = select_head(state, [HEADS[0], HEADS[4], HEADS[2]])
    assert choice.verdict is Verdict.APPLY
    assert [head.height for head in choice.targets] == [5, 3, 1]


def test_the_same_block_from_many_nodes_is_one_target():
    heads = [make_head(NEXT, announcer=name, timestamp_ms=time) for name, time in (("a", 5), ("b", 7), ("c", 6))]
    choice = select_head(CHAIN.state, heads)
    assert choice.targets == (heads[1],)


def test_nothing_comes_of_nothing():
    assert select_head(CHAIN.state, []).verdict is Verdict.NOTHING


@pytest.mark.box("S3.3", "head", "time")
@pytest.mark.box("S1.2", "head")
@pytest.mark.box("S25.2", "forged-head")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"height": 7}, StateMismatch),
        ({"height": 0}, StateMismatch),
        ({"block_hash": "0" * 64}, StateMismatch),
        ({"state_root": "0" * 64}, InvalidSignature),
        ({"timestamp_ms": 1}, InvalidSignature),
        ({"directory_epoch": 2}, StateMismatch),
        ({"announcer_id": "z"}, Unauthorized),
        ({"certificate": HEADS[0].certificate}, StateMismatch),
        ({"signature": bytes(64)}, InvalidSignature),
    ],
)
def test_a_head_changed_in_any_field_is_refused(changes, error):
    head = dataclasses.replace(make_head(NEXT), **changes)
    with pytest.raises(error):
        check_head(head, CHAIN.state.directory_at(6))
    choice = select_head(CHAIN.state, [head])
    if head.height <= CHAIN.state.horizon:
        assert choice.verdict is Verdict.NOTHING
        assert isinstance(choice.refused[0][1], AgentWorldError)


@pytest.mark.box("S1.2", "head")
def test_a_member_must_have_signed_the_head():
    head = sign(dataclasses.replace(make_head(NEXT), announcer_id="a"), signer("eve"))
    with pytest.raises(Unauthorized):
        check_head(head, CHAIN.state.directory_at(6))


def test_the_term_of_a_head_is_none_above_that_of_its_certificate():
    head = sign(dataclasses.replace(make_head(NEXT), term=NEXT.certificate.term + 1), signer("a"))
    with pytest.raises(StateMismatch, match="term"):
        check_head(head, CHAIN.state.directory_at(6))


def test_a_certificate_of_another_world_is_refused():
    block = resign(dataclasses.replace(NEXT.block, world_id="borealis"), "a")
    head = make_head(BlockBundle(block=block, batch=NEXT.batch, certificate=make_certificate(block)))
    with pytest.raises(WrongWorld):
        check_head(head, CHAIN.state.directory_at(6))

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.errors import StateMismatch, Unauthorized, WrongWorld
from agentworld_core.ledger.follow import check_head
from agentworld_core.messages import BlockBundle
from tests.unit.core.ledger.chains import Chain, make_certificate, make_head, resign


def a_chain(height: int) -> Chain:
    chain = Chain()
    for _ in range(height):
        chain.commit()
    return chain


CHAIN = a_chain(5)
HEADS = [make_head(bundle) for bundle in CHAIN.bundles]
NEXT = CHAIN.propose()


@pytest.mark.box("S3.3", "head")
@pytest.mark.box("S1.2", "head")
@pytest.mark.box("S25.2", "forged-head")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"height": 7}, StateMismatch),
        ({"height": 0}, StateMismatch),
        ({"block_hash": "0" * 64}, StateMismatch),
        ({"directory_epoch": 2}, StateMismatch),
        ({"certificate": HEADS[0].certificate}, StateMismatch),
        ({"term": NEXT.certificate.term + 1}, StateMismatch),
        ({"world_id": "borealis"}, WrongWorld),
    ],
)
def test_a_head_changed_in_what_its_certificate_proves_is_refused(changes, error):
    check_head(make_head(NEXT), CHAIN.state.directory_at(6))
    with pytest.raises(error):
        check_head(dataclasses.replace(make_head(NEXT), **changes), CHAIN.state.directory_at(6))


@pytest.mark.box("S1.2", "announcement")
def test_without_a_quorum_a_head_proves_nothing():
    """D4: what nobody certified proves nothing against what is certified."""
    few = dataclasses.replace(NEXT, certificate=make_certificate(NEXT.block, voters="ab"))
    with pytest.raises(Unauthorized):
        check_head(make_head(few), CHAIN.state.directory_at(6))


def test_a_certificate_of_another_world_is_refused():
    block = resign(dataclasses.replace(NEXT.block, world_id="borealis"), "a")
    head = make_head(BlockBundle(block=block, batch=NEXT.batch, certificate=make_certificate(block)))
    with pytest.raises(WrongWorld):
        check_head(head, CHAIN.state.directory_at(6))

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agentworld_core.errors import AgentWorldError, HashMismatch, StateMismatch, Unauthorized
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.membership.builder import Changes, with_member
from agentworld_core.messages import BlockBundle
from tests.unit.core.ledger.chains import Chain, make_certificate, make_genesis, resign
from tests.unit.core.membership.worlds import first_directory, member, successor
from tests.unit.core.world.agents import action, register


def a_chain() -> Chain:
    """Seven blocks, snapshots at 3 and 6, a directory in force since 4 and one pending at 6."""
    chain = Chain()
    current = chain.state.directory_at(1)
    second = successor(current, Changes(members=with_member(current, member("e"))))
    chain.commit(register("ada"), register("bob"), term=2)
    chain.commit(action("ada", "object.create", {"object_id": "lamp", "data": bytes(9_000)}, 1), directory=second)
    for nonce in range(2, 5):
        chain.commit(action("ada", "object.update", {"object_id": "lamp", "data": [nonce]}, nonce))
    chain.commit(directory=successor(second, Changes()))
    chain.commit(action("bob", "agent.move", {"to": [1, 1]}, 1))
    return chain


CHAIN = a_chain()
DOCUMENTS = [entry.directory for entry in CHAIN.state.directories]
VOTERS = ("a", "b", "c", "d", "e")


def certified(bundle: BlockBundle) -> BlockBundle:
    voters = VOTERS[:4] if bundle.block.directory_epoch == 1 else VOTERS
    return dataclasses.replace(bundle, certificate=make_certificate(bundle.block, voters=voters))


def restart(bundle: BlockBundle, **changes):
    options = {"directories": DOCUMENTS, "fetch": CHAIN.blobs.__getitem__, **changes}
    genesis = options.pop("genesis", CHAIN.genesis)
    return chain_from_snapshot(genesis, bundle, **options)


@pytest.mark.box("S3.3", "restored")
@pytest.mark.parametrize("height", [3, 6])
def test_a_restart_from_a_snapshot_goes_on_like_a_replay(height):
    chain = restart(certified(CHAIN.bundles[height - 1]))
    assert chain.height == height
    for bundle in CHAIN.bundles[height:]:
        chain = check_bundle(chain, certified(bundle))
    assert chain == CHAIN.state
    assert chain.directories == CHAIN.state.directories


def test_the_documents_up_to_the_snapshot_are_enough():
    chain = restart(certified(CHAIN.bundles[2]), directories=DOCUMENTS[:2])
    assert [entry.effective_height for entry in chain.directories] == [1, 4]
    assert chain.pending is None


def test_a_block_without_snapshot_is_refused():
    with pytest.raises(StateMismatch) as caught:
        restart(CHAIN.bundles[0])
    assert caught.value.field == "snapshot_ref"


def test_too_few_votes_are_refused():
    bundle = CHAIN.bundles[5]
    with pytest.raises(Unauthorized):
        restart(dataclasses.replace(bundle, certificate=make_certificate(bundle.block, voters=VOTERS[:3])))


def test_missing_and_other_documents_are_refused():
    bundle = certified(CHAIN.bundles[5])
    for wrong in ([], DOCUMENTS[:2], DOCUMENTS[1:], [DOCUMENTS[0], DOCUMENTS[2]]):
        with pytest.raises(AgentWorldError):
            restart(bundle, directories=wrong)


@pytest.mark.box("S3.3", "manifest-world")
def test_the_snapshot_of_another_world_is_refused():
    other = make_genesis(first_directory(dict.fromkeys("abcdf", 1)))
    with pytest.raises(StateMismatch) as caught:
        restart(certified(CHAIN.bundles[2]), genesis=other)
    assert caught.value.field == "genesis"


@pytest.mark.box("S3.3", "manifest-root")
@pytest.mark.parametrize("field", ["height", "state_root", "tick", "timestamp_ms", "world_id"])
def test_a_block_that_is_not_that_of_the_snapshot_is_refused(field):
    """Also when a quorum has signed it."""
    block = CHAIN.bundles[2].block
    others: dict[str, Any] = {"height": 4, "state_root": "0" * 64, "tick": 4, "timestamp_ms": 5, "world_id": "borealis"}
    value = others[field]
    changed = resign(dataclasses.replace(block, **{field: value}), "a")
    with pytest.raises(StateMismatch):
        restart(dataclasses.replace(CHAIN.bundles[2], block=changed, certificate=make_certificate(changed)))


def test_damaged_blobs_are_refused():
    with pytest.raises(HashMismatch):
        restart(certified(CHAIN.bundles[2]), fetch=lambda name: CHAIN.blobs[name] + b"\0")

"""Blocks of a world with modules: replayed, restarted and judged like any other, and never without a sandbox."""

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.ledger.chain import governance_of
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.segments import MAX_SEGMENTS, cut_events, read_events
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.messages import RevokedKey, WorldEvent
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.records import ModuleStateRecord, module_state_key
from agentworld_core.world.state import read
from tests.unit.core.ledger.chains import Chain, make_genesis
from tests.unit.core.ledger.module_chain import a_sandbox, module_chain, move
from tests.unit.core.membership.worlds import signer

CHAIN = module_chain()


def test_the_module_has_counted():
    assert read(CHAIN.state.tree, module_state_key("counter"), ModuleStateRecord) == ModuleStateRecord(b"2")


@pytest.mark.box("S16.2", "once")
@pytest.mark.box("S3.3", "execution")
def test_s3_3_a_replay_from_genesis_needs_nothing_but_a_sandbox():
    state = chain_from_genesis(CHAIN.genesis, sandbox=a_sandbox())
    for bundle in CHAIN.bundles:
        state = check_bundle(state, bundle)
    assert state == CHAIN.state


@pytest.mark.box("S8.3", "journal")
@pytest.mark.box("S2.3", "own-events")
@pytest.mark.box("S0.3", "world")
def test_s3_3_w27_a_replay_of_the_events_alone_gives_the_same_state():
    tree = chain_from_genesis(CHAIN.genesis).tree
    for bundle in CHAIN.bundles:
        tree = replay_events(tree, read_events(bundle.block.segments, CHAIN.blobs.__getitem__))
        assert tree.root == bundle.block.state_root


def test_without_a_sandbox_the_replay_ends_where_modules_begin():
    state = chain_from_genesis(CHAIN.genesis)
    for bundle in CHAIN.bundles[:2]:
        state = check_bundle(state, bundle)
    with pytest.raises(SandboxMissing):
        check_bundle(state, CHAIN.bundles[2])
    after = dataclasses.replace(CHAIN.state, sandbox=None)
    chain = Chain(CHAIN.genesis)
    chain.state = after
    with pytest.raises(SandboxMissing):
        move(chain, 3)


@pytest.mark.box("S17.2", "snapshot")
@pytest.mark.box("S16.2", "once")
def test_s17_a_restart_from_a_snapshot_has_the_code():
    snapshot = CHAIN.bundles[2]
    sandbox = a_sandbox()
    state = chain_from_snapshot(
        CHAIN.genesis,
        snapshot,
        directories=[CHAIN.genesis.directory],
        fetch=CHAIN.blobs.__getitem__,
        sandbox=sandbox,
    )
    for bundle in CHAIN.bundles[3:]:
        state = check_bundle(state, bundle)
    assert state == CHAIN.state
    assert len(sandbox.loaded) == 1


def test_the_keys_that_govern_are_those_of_the_directory_that_are_not_revoked():
    first = make_genesis().directory
    assert governance_of(first).key_ids == (signer("gov").key_id,)
    revoked = dataclasses.replace(first, revoked=(RevokedKey(signer("gov").key_id, "0" * 64),))
    assert governance_of(revoked).key_ids == ()
    assert governance_of(dataclasses.replace(first, governance_threshold=3)).threshold == 3


def test_a_block_can_name_the_segments_of_any_number_of_events():
    events = [WorldEvent(number + 1, 1, "", "module.emitted", {}) for number in range(2 * MAX_SEGMENTS + 1)]
    cut = cut_events(events, 1)
    assert len(cut.segments) <= MAX_SEGMENTS
    assert read_events(cut.segments, cut.blobs.__getitem__) == tuple(events)

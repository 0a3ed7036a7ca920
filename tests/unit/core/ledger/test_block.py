from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidField, NotFound, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import HeaderInput, action_root_of, block_hash_of, execute
from agentworld_core.ledger.chain import directories_from_state
from agentworld_core.ledger.errors import DirectoryPending
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.segments import Journal, event_root_of, read_events
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.membership.builder import Changes, with_member
from agentworld_core.membership.directory import directory_hash
from agentworld_core.messages import Directory, DirectoryChange, ReceiptList, SnapshotManifest
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.state import DirectoryRecord, directory_key, read
from tests.unit.core.ledger.chains import Chain, header, make_batch, resign
from tests.unit.core.membership.worlds import member, signed, successor
from tests.unit.core.world.agents import action, register


def next_epoch(chain: Chain, name: str = "e") -> Directory:
    current = chain.state.directories[-1].directory
    return successor(current, Changes(members=with_member(current, member(name))))


@pytest.mark.box("S3.3", "batch")
@pytest.mark.box("S3.2", "roots", "tick-and-time")
@pytest.mark.box("S0.3", "integers")
def test_a_block_says_what_went_in_and_what_came_out():
    chain = Chain()
    parent = chain.state
    execution = chain.commit(register("ada"), action("ada", "agent.move", {"to": "nowhere"}, 1))
    block, batch = chain.bundles[0].block, chain.bundles[0].batch
    assert block.prev_block_hash == parent.block_hash
    assert (block.prev_state_root, block.state_root) == (parent.state_root, chain.state.state_root)
    assert block.action_root == action_root_of(batch) == content_id(encode(batch))
    assert block.event_root == event_root_of(execution.events)
    assert (block.directory_epoch, block.directory_hash) == (1, directory_hash(parent.directory_at(1)))
    assert (block.height, block.tick, block.timestamp_ms) == (1, 1, 1_100)
    assert block.snapshot_ref is None
    assert block.directory_change is None
    receipts = decode(ReceiptList, chain.blobs[block.receipts_root]).receipts
    assert receipts == execution.receipts
    assert [(receipt.ok, receipt.code) for receipt in receipts] == [(True, ""), (False, "invalid_field")]
    assert chain.state.block_hash == block_hash_of(block) == content_id(encode(block))


@pytest.mark.box("S3.2", "stored")
@pytest.mark.box("S2.3", "segments")
def test_the_journal_of_a_block_is_stored_in_segments():
    chain = Chain()
    execution = chain.commit(*[register(name) for name in ("ada", "bob", "eve", "joe", "kim")])
    block = chain.bundles[0].block
    assert [(ref.from_event_id, ref.to_event_id) for ref in block.segments] == [(1, 3), (4, 6), (7, 7)]
    assert read_events(block.segments, chain.blobs.__getitem__) == execution.events
    assert set(execution.blobs) >= {
        block.journal_ref,
        block.receipts_root,
        *(ref.content_hash for ref in block.segments),
    }
    assert all(content_id(data) == name for name, data in execution.blobs.items())


@pytest.mark.box("S3.2", "stored")
@pytest.mark.box("S2.3", "own-events")
def test_everything_that_a_block_names_is_stored_under_its_content_id():
    chain = Chain()
    for actions in ((register("ada"),), (), (action("ada", "agent.move", {"to": [1, 0]}, 1),)):
        chain.commit(*actions)
    stored = 0
    for execution, bundle in zip(chain.executions, chain.bundles, strict=True):
        block = bundle.block
        assert block.world_id == chain.genesis.world_id
        assert block.segments[0].from_event_id == stored + 1, "its own events and no others"
        stored = block.segments[-1].to_event_id
        named = [block.receipts_root, block.journal_ref, *(ref.content_hash for ref in block.segments)]
        assert decode(Journal, execution.blobs[block.journal_ref]).segments == block.segments
        if block.snapshot_ref is not None:
            manifest = decode(SnapshotManifest, execution.blobs[block.snapshot_ref])
            assert (manifest.world_id, manifest.epoch) == (block.world_id, block.height)
            assert manifest.state_root == block.state_root
            named += [block.snapshot_ref, *(chunk.content_hash for chunk in manifest.chunks)]
        assert {name: content_id(execution.blobs[name]) for name in named} == {name: name for name in named}
    assert [bundle.block.snapshot_ref is not None for bundle in chain.bundles] == [False, False, True]


@pytest.mark.box("S8.3", "journal")
@pytest.mark.box("S3.3", "execution")
@pytest.mark.box("S0.3", "world")
def test_replay_from_genesis_gives_equal_roots_and_the_journal_rebuilds_the_state():
    chain = Chain()
    chain.commit(register("ada"), register("bob"))
    chain.commit(action("ada", "message.send", {"to": "bob", "body": "hi"}, 1))
    chain.commit()
    chain.commit(action("bob", "mailbox.clear", {"up_to": 1}, 1), term=4)
    replayed = chain_from_genesis(chain.genesis)
    first = replayed.tree
    for bundle in chain.bundles:
        replayed = check_bundle(replayed, bundle)
    assert replayed == chain.state
    assert (replayed.height, replayed.term) == (4, 4)
    refs = [ref for bundle in chain.bundles for ref in bundle.block.segments]
    assert replay_events(first, read_events(refs, chain.blobs.__getitem__)).root == replayed.state_root


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 5), max_size=6, unique=True), min_size=1, max_size=4))
def test_an_action_takes_effect_once_however_often_it_is_included(blocks):
    chain = Chain()
    chain.commit(register("ada"))
    sends = [action("ada", "message.send", {"to": "ada", "body": nonce}, nonce + 1) for nonce in range(6)]
    first: dict[str, str] = {}
    for block in blocks:
        for receipt in chain.commit(*[sends[index] for index in block]).receipts:
            assert receipt.code == ("" if receipt.action_id not in first else "nonce_used")
            first.setdefault(receipt.action_id, receipt.code)
    mail = [key for key, _ in chain.state.tree.items(b"mail/ada/")]
    assert len(mail) == len({index for block in blocks for index in block})


def test_a_block_that_was_not_executed_is_no_head():
    chain = Chain()
    execution = chain.commit()
    with pytest.raises(StateMismatch):
        execution.chain_after(resign(dataclasses.replace(execution.block, attempt=1), "a"))


@pytest.mark.box("S3.3", "height")
@pytest.mark.box("S5.3", "fencing")
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"height": 5}, "height"),
        ({"height": 1}, "height"),
        ({"term": 2}, "term"),
        ({"timestamp_ms": 0}, "timestamp_ms"),
    ],
)
def test_a_header_that_does_not_follow_the_chain_is_refused(fields, field):
    chain = Chain()
    chain.commit(term=3)
    batch = make_batch(chain.state, term=3)
    right = header(chain.state, term=3)
    execute(chain.state, batch, dataclasses.replace(right, timestamp_ms=chain.state.time_ms))
    with pytest.raises(StateMismatch) as caught:
        execute(chain.state, batch, dataclasses.replace(right, **fields))
    assert caught.value.field == field


def test_the_header_of_a_block_is_what_its_proposer_decided():
    chain = Chain()
    chain.commit(term=2, proposer="b")
    assert HeaderInput.of(chain.bundles[0].block) == header(chain_from_genesis(chain.genesis), proposer="b", term=2)


class TestDirectories:
    @pytest.mark.box("S27.1", "effective-height")
    def test_a_change_governs_from_its_height_on(self):
        chain = Chain()
        first = chain.state.directory_at(1)
        second = next_epoch(chain)
        chain.commit(directory=second)
        block = chain.bundles[0].block
        assert block.directory_change == DirectoryChange(2, directory_hash(second), 3)
        assert chain.state.pending is not None
        assert chain.state.pending.effective_height == chain.state.horizon == 3
        assert [chain.state.directory_at(height).epoch for height in (1, 2, 3)] == [1, 1, 2]
        assert read(chain.state.tree, directory_key(2), DirectoryRecord) == DirectoryRecord(directory_hash(second), 3)
        chain.commit()
        assert chain.state.pending is None
        chain.commit()
        assert [bundle.block.directory_epoch for bundle in chain.bundles] == [1, 1, 2]
        assert chain.state.directory_at(1) == first
        with pytest.raises(NotFound):
            chain.state.directory_at(5)
        with pytest.raises(NotFound):
            chain.state.directory_at(0)

    @pytest.mark.box("S27.4", "pending")
    @pytest.mark.box("S27.1", "one-in-flight")
    def test_only_one_change_is_in_flight(self):
        chain = Chain()
        chain.commit(directory=next_epoch(chain))
        third = next_epoch(chain, "f")
        with pytest.raises(DirectoryPending) as caught:
            chain.commit(directory=third)
        assert caught.value.code == "directory_pending"
        chain.commit()
        chain.commit(directory=third)
        assert chain.state.directory_at(5).epoch == 3

    def test_a_directory_that_may_not_follow_is_refused(self):
        chain = Chain()
        second = next_epoch(chain)
        with pytest.raises(StateMismatch):
            chain.commit(directory=signed(dataclasses.replace(second, epoch=3, signatures=()), "gov"))

    @pytest.mark.box("S27.1", "expires")
    def test_an_expired_directory_is_refused_by_the_time_of_the_block(self):
        chain = Chain()
        second = dataclasses.replace(next_epoch(chain), issued_at_ms=0, expires_at_ms=1_100, signatures=())
        with pytest.raises(InvalidField) as caught:
            chain.commit(directory=signed(second, "gov"))
        assert caught.value.field == "expires_at_ms"
        chain.commit(directory=signed(dataclasses.replace(second, expires_at_ms=1_101), "gov"))

    def test_the_schedule_can_be_read_back_from_the_state(self):
        chain = Chain()
        chain.commit(directory=next_epoch(chain))
        chain.commit()
        chain.commit(directory=next_epoch(chain, "f"))
        documents = [entry.directory for entry in chain.state.directories]
        assert directories_from_state(chain.state.tree, documents) == chain.state.directories
        later = successor(documents[-1], Changes())
        assert directories_from_state(chain.state.tree, [*documents, later]) == chain.state.directories
        for wrong in ([], documents[:2], [documents[0], documents[2]], [signed(later, "gov")]):
            with pytest.raises(StateMismatch):
                directories_from_state(chain.state.tree, wrong)
        other = dataclasses.replace(documents[0], reason="another")
        with pytest.raises(StateMismatch):
            directories_from_state(chain.state.tree, [other, *documents[1:]])

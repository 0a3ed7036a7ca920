"""W12, W13: no field of anything that makes up a height can be changed unnoticed, whoever changes it.

First by somebody who can sign nothing; then, for what a signature covers, by a whole quorum that signs it again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import action_root_of
from agentworld_core.ledger.chain import ChainState
from agentworld_core.ledger.difference import Difference, compare_events, compare_receipts, earliest
from agentworld_core.ledger.errors import ExecutionMismatch
from agentworld_core.ledger.restart import chain_from_snapshot
from agentworld_core.ledger.segments import Journal, cut_events, event_root_of, read_events, receipts_blob
from agentworld_core.ledger.snapshot import StateChunk
from agentworld_core.ledger.validate import check_links, replay_bundle
from agentworld_core.membership.builder import Changes, revoked_key
from agentworld_core.messages import (
    ActionEnvelope,
    BlockBundle,
    CertificateVote,
    EventSegment,
    Receipt,
    ReceiptList,
    SnapshotManifest,
    WorldEvent,
)
from agentworld_core.ordering.batch import batch_id_of
from tests.unit.core.ledger.chains import PARAMETERS, Chain, make_certificate, resign
from tests.unit.core.ledger.every_field import changes, hints, kinds_within
from tests.unit.core.membership.worlds import signer, statement, successor
from tests.unit.core.world.agents import action, register


def a_chain() -> Chain:
    """Two heights below one with actions, a directory that revokes a key, and a snapshot."""
    chain = Chain()
    chain.commit(register("ada"), register("bob"), term=2)
    chain.commit()
    return chain


CHAIN = a_chain()
STATE: ChainState = CHAIN.state
SECOND = successor(STATE.directory_at(1), Changes(revoked=[revoked_key(statement(signer("e").key_id))]))
ACTIONS = (
    action("ada", "agent.move", {"to": [1, 2]}, 1),
    action("bob", "object.create", {"object_id": "lamp", "data": {"lit": True}}, 1),
    action("bob", "object.update", {"object_id": "none", "data": 1}, 2),
)
RIGHT = CHAIN.propose(*ACTIONS, directory=SECOND, term=3, proposer="b", voters="abc")  # with one less no quorum
EXECUTION = replay_bundle(STATE, RIGHT)
Level = Callable[[ChainState, BlockBundle], object]
LEVELS: list[Level] = [check_links, replay_bundle]


def sealed(bundle: BlockBundle, **fields: Any) -> BlockBundle:
    """The bundle whose block says something else, signed by its proposer and certified by everybody."""
    block = resign(dataclasses.replace(bundle.block, **fields), bundle.block.proposer_id)
    return dataclasses.replace(bundle, block=block, certificate=make_certificate(block))


def refusal(level: Level, bundle: BlockBundle) -> AgentWorldError | None:
    try:
        level(STATE, bundle)
    except AgentWorldError as error:
        return error
    return None


@pytest.mark.box("S3.3", "every-field")
def test_the_bundle_holds_every_kind_of_message_that_a_bundle_can_hold() -> None:
    """Otherwise a field would be left out because there is nothing to change."""
    covered = {(kind, name) for _, kind, name, _ in changes(RIGHT)}
    expected = {(kind, name) for kind in kinds_within(BlockBundle) for name in hints(kind)}
    whole = {(BlockBundle, "block"), (BlockBundle, "batch"), (BlockBundle, "certificate")}
    assert expected - covered == whole, "the parts themselves are changed by their fields"


PLACES = {"block": ("block.", "certificate"), "batch": ("batch", "block.action_root"), "certificate": ("certificate",)}
"""What the refusal of a change must name: the part itself, or the hash that commits to it."""


@pytest.mark.box("S3.3", "every-field")
@pytest.mark.box("S1.2", "block")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("part", PLACES)
def test_nothing_can_be_changed_by_somebody_who_signs_nothing(level: Level, part: str) -> None:
    for path, _, _, changed in changes(RIGHT):
        if path.startswith(part + "."):
            error = refusal(level, changed)
            assert error is not None, path
            assert (error.field or "").startswith(PLACES[part]), (path, error.field)


@pytest.mark.box("S1.2", "action")
@pytest.mark.box("S5.2", "actions-verified")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("field", hints(ActionEnvelope))
def test_not_even_a_quorum_can_change_an_action(level: Level, field: str) -> None:
    """Batch, block and certificate are made anew for it; the actor's signature is what they cannot make."""
    for index, signed in enumerate(ACTIONS):
        for _, _, name, changed in changes(signed):
            if name != field:
                continue
            actions = (*ACTIONS[:index], changed, *ACTIONS[index + 1 :])
            batch = resign(dataclasses.replace(RIGHT.batch, actions=actions, batch_id=batch_id_of(actions)), "b")
            bundle = dataclasses.replace(sealed(RIGHT, action_root=action_root_of(batch)), batch=batch)
            error = refusal(level, bundle)
            assert error is not None
            assert (error.field or "").startswith(f"batch.actions[{index}]"), error.field


@pytest.mark.box("S3.3", "signatures")
@pytest.mark.box("S26.3", "vote-of-another")
@pytest.mark.box("S25.2", "certificate-forged")
@pytest.mark.parametrize("field", hints(CertificateVote))
@pytest.mark.parametrize("level", LEVELS)
def test_one_wrong_vote_spoils_a_certificate(level: Level, field: str) -> None:
    votes = RIGHT.certificate.votes
    for index, vote in enumerate(votes):
        for _, _, name, changed in changes(vote):
            if name == field:
                spoiled = (*votes[:index], changed, *votes[index + 1 :])
                error = refusal(level, dataclasses.replace(RIGHT, certificate=dataclasses.replace(
                    RIGHT.certificate, votes=spoiled)))  # fmt: skip
                assert (error.field if error else "").startswith("certificate.votes["), (index, field)  # type: ignore[union-attr]


def others(items: Sequence[Any], field: str) -> list[tuple[int, tuple[Any, ...]]]:
    """The items with this field of one of them changed, for each of them."""
    return [
        (index, (*items[:index], changed, *items[index + 1 :]))
        for index, item in enumerate(items)
        for _, _, name, changed in changes(item)
        if name == field
    ]


def first_difference(events: Sequence[WorldEvent], receipts: Sequence[Receipt]) -> Difference | None:
    """Where a result departs from the execution."""
    places = {receipt.action_id: receipt.position for receipt in EXECUTION.receipts}
    event = compare_events(events, EXECUTION.events, places=places)
    return earliest(event, compare_receipts(receipts, EXECUTION.receipts), EXECUTION.receipts)


class TestWhatTheQuorumClaims:
    """Receipts and events that a quorum has signed, but execution does not give: replay names the very field."""

    @pytest.mark.box("S3.3", "roots")
    @pytest.mark.parametrize("field", hints(Receipt))
    def test_receipts(self, field: str) -> None:
        for index, receipts in others(EXECUTION.receipts, field):
            root, _ = receipts_blob(receipts)
            bundle = sealed(RIGHT, receipts_root=root)
            assert refusal(check_links, bundle) is None
            error = refusal(replay_bundle, bundle)
            assert isinstance(error, ExecutionMismatch)
            assert error.field == "block.receipts_root"
            found = first_difference(EXECUTION.events, receipts)
            assert found is not None
            assert (found.what, found.number, found.field) == ("receipt", index, field)
            assert found.action_id == ACTIONS[index].action_id

    @pytest.mark.box("S3.3", "roots")
    @pytest.mark.parametrize("field", hints(WorldEvent))
    def test_events(self, field: str) -> None:
        for index, events in others(EXECUTION.events, field):
            cut = cut_events(events, PARAMETERS.journal_events_per_segment)
            fields = {"event_root": cut.event_root, "journal_ref": cut.journal_ref, "segments": cut.segments}
            error = refusal(replay_bundle, sealed(RIGHT, **fields))
            assert isinstance(error, ExecutionMismatch)
            assert error.field in ("block.event_root", "block.journal_ref", "block.segments")
            found = first_difference(events, EXECUTION.receipts)
            assert found is not None
            assert (found.what, found.field) == ("event", field)
            assert found.action_id == EXECUTION.events[index].caused_by

    def test_missing_and_added_ones(self) -> None:
        for events in (EXECUTION.events[:-1], (*EXECUTION.events, EXECUTION.events[-1])):
            found = first_difference(events, EXECUTION.receipts)
            assert found is not None
            assert "nothing" in (found.stated, found.executed)
        found = first_difference(EXECUTION.events, EXECUTION.receipts[:1])
        assert found is not None
        assert (found.what, found.number, found.stated) == ("receipt", 1, "nothing")
        assert first_difference(EXECUTION.events, EXECUTION.receipts) is None

    def test_an_event_less_is_of_the_action_that_lacks_it(self) -> None:
        place = next(index for index, event in enumerate(EXECUTION.events) if event.caused_by == ACTIONS[0].action_id)
        events = (*EXECUTION.events[:place], *EXECUTION.events[place + 1 :])
        found = first_difference(events, EXECUTION.receipts)
        assert found is not None
        assert (found.action_id, found.position) == (ACTIONS[0].action_id, 0)
        # One more is of the action it is added to, and not of the next one, which it displaces.
        events = (*EXECUTION.events[: place + 1], EXECUTION.events[place], *EXECUTION.events[place + 1 :])
        found = first_difference(events, EXECUTION.receipts)
        assert found is not None
        assert (found.action_id, found.position) == (ACTIONS[0].action_id, 0)


class TestStoredContent:
    """What blocks name by hash: changed in the store, and changed together with every hash up to the block."""

    def blobs(self) -> dict[str, bytes]:
        return {**CHAIN.blobs, **EXECUTION.blobs}

    @pytest.mark.box("S3.3", "journal")
    def test_no_event_of_a_stored_segment(self) -> None:
        for segment in RIGHT.block.segments:
            data = self.blobs()[segment.content_hash]
            for path, _, _, changed in changes(decode(EventSegment, data)):
                with pytest.raises(AgentWorldError):
                    read_events([segment], {segment.content_hash: encode(changed)}.__getitem__)
                events = (*changed.events, *EXECUTION.events)
                assert event_root_of(events) != RIGHT.block.event_root, path

    def test_no_receipt_of_a_stored_list_and_no_ref_of_a_journal(self) -> None:
        for kind, reference in ((ReceiptList, RIGHT.block.receipts_root), (Journal, RIGHT.block.journal_ref)):
            for path, _, _, changed in changes(decode(kind, self.blobs()[reference])):
                assert content_id(encode(changed)) != reference, path

    def restored(self, bundle: BlockBundle, blobs: dict[str, bytes]) -> ChainState:
        directories = [CHAIN.genesis.directory, SECOND]
        return chain_from_snapshot(CHAIN.genesis, bundle, directories=directories, fetch=blobs.__getitem__)

    def test_the_snapshot_is_right_as_it_is(self) -> None:
        assert self.restored(RIGHT, self.blobs()) == EXECUTION.chain_after(RIGHT.block)

    @pytest.mark.box("S3.3", "manifest-root", "manifest-world")
    def test_no_field_of_a_manifest(self) -> None:
        reference = RIGHT.block.snapshot_ref or ""
        manifest = decode(SnapshotManifest, self.blobs()[reference])
        for path, _, _, changed in changes(manifest):
            data = encode(changed)
            with pytest.raises(AgentWorldError):
                self.restored(RIGHT, {**self.blobs(), reference: data})
            bundle = sealed(RIGHT, snapshot_ref=content_id(data))
            stored = {**self.blobs(), content_id(data): data}
            stored |= {item.content_hash: stored.get(item.content_hash, b"x") for item in changed.chunks}
            with pytest.raises(AgentWorldError):
                self.restored(bundle, stored)
            error = refusal(replay_bundle, bundle)
            assert (error.field if error else "") == "block.snapshot_ref", path

    @pytest.mark.box("S3.3", "snapshot")
    def test_no_key_and_no_value_of_a_chunk(self) -> None:
        reference = RIGHT.block.snapshot_ref or ""
        manifest = decode(SnapshotManifest, self.blobs()[reference])
        (chunk,) = manifest.chunks
        for path, _, _, changed in changes(decode(StateChunk, self.blobs()[chunk.content_hash])):
            data = encode(changed)
            with pytest.raises(AgentWorldError):
                self.restored(RIGHT, {**self.blobs(), chunk.content_hash: data})
            first = changed.keys[0] if changed.keys else b""
            other = dataclasses.replace(chunk, first_key=first, content_hash=content_id(data), size_bytes=len(data))
            forged = encode(dataclasses.replace(manifest, chunks=(other,)))
            blobs = {**self.blobs(), other.content_hash: data, content_id(forged): forged}
            with pytest.raises(AgentWorldError):
                self.restored(sealed(RIGHT, snapshot_ref=content_id(forged)), blobs)
            assert path

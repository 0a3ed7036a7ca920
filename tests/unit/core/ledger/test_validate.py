from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentworld_core.codec import decode, encode
from agentworld_core.errors import (
    AgentWorldError,
    HashMismatch,
    InvalidField,
    InvalidSignature,
    KeyRevoked,
    StateMismatch,
    TooLarge,
    Unauthorized,
    WrongWorld,
)
from agentworld_core.ledger.block import HeaderInput, action_root_of, execute
from agentworld_core.ledger.chain import ChainLinks
from agentworld_core.ledger.errors import DirectoryPending, ExecutionMismatch
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.validate import check_block, check_bundle, check_committed, check_links, replay_bundle
from agentworld_core.membership.builder import Changes, key_entry, revoked_key, with_keys, with_member
from agentworld_core.messages import (
    ActionBatch,
    ActionEnvelope,
    BlockBundle,
    CommitCertificate,
    DirectoryChange,
    JournalSegmentRef,
    WorldBlock,
)
from agentworld_core.ordering.batch import BatchLimits, batch_id_of, check_batch
from agentworld_core.world.actions import envelope_id
from tests.unit.core.ledger.chains import (
    PARAMETERS,
    Chain,
    header,
    make_batch,
    make_certificate,
    make_genesis,
    resign,
    with_fields,
)
from tests.unit.core.membership.worlds import member, signed, signer, statement, successor
from tests.unit.core.world.agents import action, register


def a_chain() -> Chain:
    chain = Chain()
    chain.commit(register("ada"), register("bob"), term=2)
    return chain


CHAIN = a_chain()
STATE = CHAIN.state
SECOND = successor(STATE.directory_at(1), Changes(members=with_member(STATE.directory_at(1), member("e"))))
RIGHT = CHAIN.propose(
    action("ada", "agent.move", {"to": [1, 2]}, 1),
    action("bob", "object.create", {"object_id": "lamp", "data": 1}, 1),
    directory=SECOND,
    term=3,
    proposer="b",
)
SNAPSHOT_CHAIN = a_chain()
SNAPSHOT_CHAIN.commit()
AT_SNAPSHOT = SNAPSHOT_CHAIN.propose()


def refused(bundle: BlockBundle, **options: Any) -> AgentWorldError:
    with pytest.raises(AgentWorldError) as caught:
        check_bundle(STATE, bundle, **options)
    return caught.value


def test_a_right_bundle_is_accepted_and_moves_the_chain():
    after = check_bundle(STATE, RIGHT)
    assert (after.height, after.term, after.horizon) == (2, 3, 4)
    assert after.state_root == RIGHT.block.state_root
    assert replay_bundle(STATE, RIGHT).block.state_root == after.state_root
    assert check_block(STATE, RIGHT.block, RIGHT.batch).chain_after(RIGHT.block) == after
    snapshot = check_bundle(SNAPSHOT_CHAIN.state, AT_SNAPSHOT)
    assert snapshot.snapshot_tree.root == snapshot.state_root == AT_SNAPSHOT.block.state_root


def _other(value: Any) -> Any:
    """Another value of the same kind."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case bytes():
            return bytes([value[0] ^ 1]) + value[1:] if value else b"x"
        case str():
            return ("1" if value[:1] != "1" else "2") + value[1:]
        case tuple():
            return (*value[:-1], _other(value[-1]) if value else JournalSegmentRef(1, 1, "0" * 64, 1))
        case _ if dataclasses.is_dataclass(value):
            name = dataclasses.fields(value)[0].name
            return dataclasses.replace(value, **{name: _other(getattr(value, name))})  # type: ignore[type-var]
    raise TypeError(type(value))


def _names(kind: type) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


class TestEveryField:
    """W12, W13: what a proposer or a quorum signs must still be right; ``test_every_field`` is about everybody else."""

    @pytest.mark.box("S3.3", "every-field")
    @pytest.mark.box("S1.2", "block")
    @pytest.mark.box("S5.3", "fencing")
    @pytest.mark.parametrize(
        "name", [name for name in _names(WorldBlock) if name not in ("signature", "key_id", "proposer_id")]
    )
    def test_of_a_block_changed_by_its_proposer_and_certified_by_everybody(self, name):
        """Even a whole quorum cannot make others accept a block that does not follow."""
        for chain, right in ((STATE, RIGHT), (SNAPSHOT_CHAIN.state, AT_SNAPSHOT)):
            value = getattr(right.block, name)
            if value is None:
                value = "1" * 64 if name == "snapshot_ref" else DirectoryChange(2, "1" * 64, 9)
            block = resign(dataclasses.replace(right.block, **{name: _other(value)}), right.block.proposer_id)
            bundle = dataclasses.replace(right, block=block, certificate=make_certificate(block))
            if name == "attempt":  # the proposer's own choice, which nothing depends on
                check_bundle(chain, bundle)
                continue
            with pytest.raises(AgentWorldError) as caught:
                check_bundle(chain, bundle)
            assert f"block.{name}" in str(caught.value) or name in ("term", "height", "timestamp_ms")

    @pytest.mark.box("S3.3", "batch")
    @pytest.mark.box("S5.2", "signed")
    def test_of_a_batch_changed_and_committed_to_again(self):
        """A batch that its block names, signed again, must still be in order by itself."""
        for name in ("world_id", "batch_id", "actions", "proposer_id", "term", "height", "directory"):
            batch = dataclasses.replace(RIGHT.batch, **{name: _other(getattr(RIGHT.batch, name))})
            assert isinstance(refused(rebuilt(resign(batch, "b"))), AgentWorldError), name

    @pytest.mark.box("S3.3", "every-field")
    @settings(max_examples=150)
    @given(st.sampled_from(["block", "batch", "certificate"]), st.data())
    def test_changed_in_any_byte(self, part, data):
        message = getattr(RIGHT, part)
        encoded = encode(message)
        place = data.draw(st.integers(0, len(encoded) - 1))
        changed = encoded[:place] + bytes([encoded[place] ^ data.draw(st.integers(1, 255))]) + encoded[place + 1 :]
        with pytest.raises(AgentWorldError):
            check_bundle(STATE, dataclasses.replace(RIGHT, **{part: decode(type(message), changed)}))


class TestLinksAlone:
    """Everything but the execution: what is signed is checked, what came out is the quorum's word."""

    OUTCOMES = ("event_root", "state_root", "receipts_root", "tick", "attempt")
    """What nothing but execution proves, and the proposer's own choice of a round."""

    def test_a_right_bundle_moves_the_chain_as_execution_does(self):
        for chain, right in ((STATE, RIGHT), (SNAPSHOT_CHAIN.state, AT_SNAPSHOT)):
            after, executed_ = check_links(chain, right), check_bundle(chain, right)
            assert type(after) is ChainLinks
            for field in dataclasses.fields(ChainLinks):
                assert getattr(after, field.name) == getattr(executed_, field.name)
            again = check_links(chain, right)
            assert again.next_height == right.block.height + 1

    @pytest.mark.parametrize(
        "name", [name for name in _names(WorldBlock) if name not in ("signature", "key_id", "proposer_id")]
    )
    def test_a_certified_block_must_still_follow_in_all_but_its_outcome(self, name):
        for chain, right in ((STATE, RIGHT), (SNAPSHOT_CHAIN.state, AT_SNAPSHOT)):
            value = getattr(right.block, name)
            if value is None:
                value = "1" * 64 if name == "snapshot_ref" else DirectoryChange(2, "1" * 64, 9)
            elif name == "snapshot_ref":
                continue  # which snapshot it is, only execution tells; that there is one, the parameters
            later = name == "timestamp_ms"
            block = resign(dataclasses.replace(right.block, **{name: _other(value)}), right.block.proposer_id)
            bundle = dataclasses.replace(right, block=block, certificate=make_certificate(block))
            if later or name in self.OUTCOMES:
                check_links(chain, bundle)
                continue
            with pytest.raises(AgentWorldError):
                check_links(chain, bundle)


def rebuilt(batch: ActionBatch) -> BlockBundle:
    """A block for this batch, whatever it holds: only its own place and action root are made to fit."""
    changed = dataclasses.replace(
        RIGHT.block,
        action_root=action_root_of(batch),
        proposer_id=RIGHT.block.proposer_id,
    )
    block = resign(changed, "b")
    return BlockBundle(block=block, batch=batch, certificate=make_certificate(block))


def executed(batch: ActionBatch, **fields: Any) -> BlockBundle:
    """A bundle whose block is what execution gives for this batch, signed and certified."""
    right = dataclasses.replace(header(STATE, proposer=batch.proposer_id, term=batch.term), **fields)
    block = resign(execute(STATE, batch, right).block, batch.proposer_id)
    return BlockBundle(block=block, batch=batch, certificate=make_certificate(block))


class TestPlace:
    @pytest.mark.box("S3.3", "place", "height")
    @pytest.mark.box("S25.2", "never-lower")
    def test_other_worlds_and_heights(self):
        assert isinstance(refused(with_fields(RIGHT, "block", world_id="borealis")), WrongWorld)
        for bundle in CHAIN.bundles:
            error = refused(bundle)
            assert isinstance(error, StateMismatch)
            assert error.field == "block.height"

    @pytest.mark.box("S3.3", "term")
    @pytest.mark.box("S5.3", "fencing")
    def test_a_lower_term_is_refused(self):
        batch = make_batch(STATE, term=1)
        block = resign(
            dataclasses.replace(RIGHT.block, term=1, proposer_id="a", action_root=action_root_of(batch)), "a"
        )
        error = refused(BlockBundle(block=block, batch=batch, certificate=make_certificate(block)))
        assert error.field == "block.term"

    @pytest.mark.box("S3.3", "time")
    @pytest.mark.box("S3.2", "tick-and-time")
    def test_time_does_not_go_back(self):
        block = resign(dataclasses.replace(RIGHT.block, timestamp_ms=STATE.time_ms - 1), "b")
        error = refused(dataclasses.replace(RIGHT, block=block, certificate=make_certificate(block)))
        assert error.field == "block.timestamp_ms"
        same = executed(make_batch(STATE, term=2), timestamp_ms=STATE.time_ms)
        assert check_bundle(STATE, same).time_ms == STATE.time_ms

    def test_without_lease_there_is_only_term_0(self):
        chain = Chain(make_genesis(parameters=dataclasses.replace(PARAMETERS, leaseless=True)))
        check_bundle(chain.state, chain.propose(term=0))
        with pytest.raises(StateMismatch) as caught:
            check_bundle(chain.state, chain.propose(term=1))
        assert caught.value.field == "block.term"

    @pytest.mark.box("S3.3", "parent")
    def test_a_block_on_another_parent_is_refused(self):
        other = Chain()
        other.commit(register("eve"), term=2)
        error = refused(other.propose())
        assert error.field == "block.prev_block_hash"
        assert "height 2" in str(error)

    @pytest.mark.box("S3.3", "term")
    @pytest.mark.box("S27.1", "effective-height")
    @pytest.mark.box("S26.1", "epoch-of-each-vote")
    def test_the_directory_is_the_one_of_the_height(self):
        chain = a_chain()
        chain.commit(directory=SECOND)
        chain.commit()
        right = chain.propose(voters=("a", "b", "c", "d", "e"))
        assert right.block.directory_epoch == 2
        assert check_bundle(chain.state, right).height == 4
        early = chain_from_genesis(chain.genesis)
        for bundle in chain.bundles:
            early = check_bundle(early, bundle)
        old = resign(dataclasses.replace(right.block, directory_epoch=1), "a")
        with pytest.raises(StateMismatch) as caught:
            check_bundle(early, dataclasses.replace(right, block=old, certificate=make_certificate(old)))
        assert caught.value.field == "block.directory_epoch"


class TestSignatures:
    @pytest.mark.box("S3.3", "signatures")
    @pytest.mark.box("S27.3", "not-auto-added")
    @pytest.mark.box("S25.1", "proposer")
    def test_the_proposer_is_a_member(self):
        batch = make_batch(STATE, proposer="z", term=2)
        error = refused(executed(batch))
        assert isinstance(error, Unauthorized)
        assert error.field == "block.member_id"

    @pytest.mark.box("S3.3", "signatures")
    @pytest.mark.box("S5.2", "signed")
    def test_the_key_is_the_proposers(self):
        """Another member's key does not do."""
        block = resign(RIGHT.block, "a")
        assert isinstance(
            refused(dataclasses.replace(RIGHT, block=block, certificate=make_certificate(block))), Unauthorized
        )
        assert isinstance(refused(rebuilt(resign(RIGHT.batch, "a"))), Unauthorized)

    @pytest.mark.box("S3.3", "signatures")
    def test_a_revoked_key_is_refused_once_its_directory_governs(self):
        chain = a_chain()
        current = chain.state.directory_at(1)
        fresh = with_keys(current, "b", [key_entry(signer("b2").public_key, 2)])
        changes = Changes(members=fresh, revoked=[revoked_key(statement(signer("b").key_id, "gov"))])
        chain.commit(directory=successor(current, changes), proposer="b")
        chain.commit(proposer="b")
        with pytest.raises(KeyRevoked) as caught:
            check_bundle(chain.state, chain.propose(proposer="b", voters=("a", "c", "d")))
        assert caught.value.field == "block.key_id"
        check_bundle(chain.state, chain.propose(proposer="a", voters=("a", "c", "d")))

    @pytest.mark.box("S3.2", "signed")
    @pytest.mark.box("S5.2", "signed")
    def test_signatures_must_verify(self):
        assert isinstance(refused(with_fields(RIGHT, "block", signature=bytes(64))), HashMismatch)
        block = dataclasses.replace(RIGHT.block, signature=bytes(64))
        forged = dataclasses.replace(RIGHT, block=block, certificate=make_certificate(block))
        assert isinstance(refused(forged), InvalidSignature)
        assert refused(forged).field == "block.signature"
        error = refused(rebuilt(dataclasses.replace(RIGHT.batch, signature=bytes(64))))
        assert isinstance(error, InvalidSignature)
        assert error.field == "batch.signature"


class TestBatch:
    @pytest.mark.box("S5.2", "max-actions", "max-bytes")
    def test_limits(self):
        moves = [action("ada", "agent.move", {"to": [0, 0]}, nonce) for nonce in range(17)]
        error = refused(executed(make_batch(STATE, moves, term=2)))
        assert isinstance(error, TooLarge)
        assert error.field == "batch.actions"
        large = [action("ada", "object.create", {"object_id": f"o{n}", "data": bytes(16_000)}, n + 1) for n in range(5)]
        assert isinstance(refused(executed(make_batch(STATE, large, term=2))), TooLarge)
        check_bundle(STATE, executed(make_batch(STATE, large[:4], term=2)))

    @pytest.mark.box("S5.2", "no-repeats")
    def test_an_action_twice(self):
        move = action("ada", "agent.move", {"to": [0, 0]}, 1)
        error = refused(executed(make_batch(STATE, [move, move], term=2)))
        assert isinstance(error, InvalidField)
        assert error.field == "batch.actions[1].action_id"

    @pytest.mark.box("S1.2", "batch")
    @pytest.mark.box("S5.2", "batch-id")
    def test_the_batch_id_covers_content_and_order(self):
        moves = [action("ada", "agent.move", {"to": [0, 0]}, nonce) for nonce in (1, 2)]
        batch = make_batch(STATE, moves, term=2)
        swapped = resign(dataclasses.replace(batch, actions=tuple(reversed(moves))), "a")
        error = refused(executed(swapped))
        assert isinstance(error, HashMismatch)
        assert error.field == "batch.batch_id"

    @pytest.mark.box("S5.2", "actions-verified")
    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"signature": bytes(64)}, InvalidSignature),
            ({"payload_hash": "0" * 64}, HashMismatch),
            ({"action_id": "0" * 64}, HashMismatch),
            ({"world_id": "borealis"}, WrongWorld),
            ({"nonce": 2**63}, InvalidField),
        ],
    )
    def test_every_action_is_checked(self, change, error):
        wrong = dataclasses.replace(action("ada", "agent.move", {"to": [0, 0]}, 1), **change)
        bundle = executed(make_batch(STATE, [register("joe"), wrong], term=2))
        found = refused(bundle)
        assert isinstance(found, error)
        assert found.field is not None
        assert found.field.startswith("batch.actions[1].")
        assert "height 2" in str(found)

    def test_the_rules_are_those_of_the_ordering(self):
        limits = BatchLimits(max_actions=PARAMETERS.max_batch_actions, max_bytes=PARAMETERS.max_batch_bytes)
        check_batch(RIGHT.batch, world_id=STATE.world_id, limits=limits)
        assert RIGHT.batch.batch_id == batch_id_of(RIGHT.batch.actions)

    @pytest.mark.box("S5.2", "actions-verified")
    def test_verified_actions_are_not_checked_again(self):
        """The cache goes by the whole envelope: the same action with a broken signature is not known."""
        good = action("ada", "agent.move", {"to": [0, 0]}, 1)
        forged = dataclasses.replace(good, signature=bytes(64))
        asked: list[str] = []

        def known(name: str) -> bool:
            asked.append(name)
            return name == envelope_id(good)

        check_bundle(STATE, executed(make_batch(STATE, [good], term=2)), verified=known)
        assert asked == [envelope_id(good)]
        error = refused(executed(make_batch(STATE, [forged], term=2)), verified=known)
        assert isinstance(error, InvalidSignature)
        assert asked[1:] == [envelope_id(forged)]


class TestDirectoryChange:
    def test_the_block_must_announce_what_the_batch_holds(self):
        for change in (None, DirectoryChange(2, RIGHT.block.directory_hash, 4)):
            block = resign(dataclasses.replace(RIGHT.block, directory_change=change), "b")
            error = refused(dataclasses.replace(RIGHT, block=block, certificate=make_certificate(block)))
            assert isinstance(error, ExecutionMismatch)
            assert error.field == "block.directory_change"

    def test_a_directory_that_may_not_follow_spoils_the_block(self):
        bad = signed(dataclasses.replace(SECOND, epoch=5, signatures=()), "gov")
        error = refused(rebuilt(resign(dataclasses.replace(RIGHT.batch, directory=bad), "b")))
        assert isinstance(error, StateMismatch)
        assert error.field == "batch.directory.epoch"

    @pytest.mark.box("S27.1", "one-in-flight")
    def test_a_second_change_in_flight_spoils_the_block(self):
        chain = a_chain()
        chain.commit(directory=SECOND)
        third = successor(SECOND, Changes())
        batch = make_batch(chain.state, directory=third, term=2)
        right = chain.propose()
        block = resign(dataclasses.replace(right.block, action_root=action_root_of(batch)), "a")
        with pytest.raises(DirectoryPending):
            check_bundle(chain.state, BlockBundle(block=block, batch=batch, certificate=make_certificate(block)))


class TestExecution:
    @pytest.mark.box("S3.3", "roots")
    def test_a_mismatch_names_height_and_field(self):
        for field in ("state_root", "event_root", "receipts_root", "journal_ref", "tick", "segments", "snapshot_ref"):
            value = getattr(AT_SNAPSHOT.block, field)
            block = resign(dataclasses.replace(AT_SNAPSHOT.block, **{field: _other(value)}), "a")
            bundle = dataclasses.replace(AT_SNAPSHOT, block=block, certificate=make_certificate(block))
            with pytest.raises(ExecutionMismatch) as caught:
                check_bundle(SNAPSHOT_CHAIN.state, bundle)
            assert (caught.value.height, caught.value.field) == (3, f"block.{field}")
            assert caught.value.code == "execution_mismatch"
            assert "height 3" in str(caught.value)

    @pytest.mark.box("S2.3", "own-events")
    def test_a_snapshot_is_due_at_its_heights_only(self):
        assert AT_SNAPSHOT.block.snapshot_ref is not None
        assert RIGHT.block.snapshot_ref is None
        for right, chain, ref in (
            (AT_SNAPSHOT, SNAPSHOT_CHAIN.state, None),
            (RIGHT, STATE, AT_SNAPSHOT.block.snapshot_ref),
        ):
            block = resign(dataclasses.replace(right.block, snapshot_ref=ref), right.block.proposer_id)
            with pytest.raises(ExecutionMismatch) as caught:
                check_bundle(chain, dataclasses.replace(right, block=block, certificate=make_certificate(block)))
            assert caught.value.field == "block.snapshot_ref"


class TestCertificate:
    def test_a_block_may_be_decided_in_a_later_round_than_it_was_made_in(self):
        for term, attempt in ((3, 1), (4, 0)):
            later = make_certificate(RIGHT.block, term=term, attempt=attempt)
            check_bundle(STATE, dataclasses.replace(RIGHT, certificate=later))
        for term in (2, 0):
            earlier = make_certificate(RIGHT.block, term=term, attempt=9)
            assert refused(dataclasses.replace(RIGHT, certificate=earlier)).field == "certificate.attempt"

    @pytest.mark.box("S25.2", "certificate-short")
    def test_three_of_four_suffice_and_two_do_not(self):
        check_bundle(STATE, dataclasses.replace(RIGHT, certificate=make_certificate(RIGHT.block, voters="abd")))
        few = dataclasses.replace(RIGHT, certificate=make_certificate(RIGHT.block, voters="ab"))
        assert isinstance(refused(few), Unauthorized)
        assert refused(few).field == "certificate.votes"

    def test_the_certificate_of_another_block_is_refused(self):
        other = CHAIN.propose(term=3)
        for certificate in (other.certificate, CHAIN.bundles[0].certificate):
            with pytest.raises(AgentWorldError) as caught:
                check_committed(RIGHT.block, certificate, STATE.directory_at(2))
            assert caught.value.field in ("block_hash", "height")

    @pytest.mark.box("S3.3", "by-hash")
    @pytest.mark.box("S25.2", "uncertified-block")
    def test_a_bad_certificate_is_found_before_anything_is_executed(self):
        wrong = dataclasses.replace(RIGHT.block, state_root="0" * 64)
        few = make_certificate(resign(wrong, "b"), voters="ab")
        bundle = BlockBundle(block=resign(wrong, "b"), batch=RIGHT.batch, certificate=few)
        assert refused(bundle).field == "certificate.votes"


def test_the_messages_are_what_the_tests_change():
    assert {type(RIGHT.block), type(RIGHT.batch), type(RIGHT.certificate)} == {
        WorldBlock,
        ActionBatch,
        CommitCertificate,
    }
    assert HeaderInput.of(RIGHT.block) == header(STATE, proposer="b", term=3)
    assert all(isinstance(item, ActionEnvelope) for item in RIGHT.batch.actions)

from __future__ import annotations

import dataclasses

import pytest

from agentworld_core.codec import encode
from agentworld_core.errors import AgentWorldError, InvalidField, StateMismatch, Unauthorized, WrongWorld
from agentworld_core.hashing import content_id
from agentworld_core.ledger.genesis import chain_from_genesis, check_genesis, genesis_hash, genesis_state
from agentworld_core.membership.directory import directory_hash
from agentworld_core.signing import add_signature
from agentworld_core.world.state import WORLD_KEY, DirectoryRecord, WorldRecord, directory_key, read, read_meta
from tests.unit.core.ledger.chains import PARAMETERS, make_genesis
from tests.unit.core.membership.worlds import WORLD, signer

GENESIS = make_genesis()


@pytest.mark.box("S1.2", "genesis")
@pytest.mark.box("S25.2", "genesis")
def test_the_chain_begins_with_the_genesis_document_alone():
    chain = chain_from_genesis(GENESIS)
    assert chain.block_hash == chain.genesis_hash == genesis_hash(GENESIS) == content_id(encode(GENESIS))
    assert (chain.height, chain.next_height, chain.term, chain.time_ms) == (0, 1, 0, 1_000)
    assert chain.directory_at(1) == GENESIS.directory
    assert chain.pending is None
    assert chain.horizon == 1
    assert chain.state_root == genesis_state(GENESIS).root


def test_the_first_state_names_the_world_its_genesis_and_its_directory():
    state = genesis_state(GENESIS)
    assert read(state, WORLD_KEY, WorldRecord) == WorldRecord(WORLD, genesis_hash(GENESIS))
    assert read(state, directory_key(1), DirectoryRecord) == DirectoryRecord(directory_hash(GENESIS.directory), 1)
    assert dataclasses.astuple(read_meta(state)) == (0, 1_000, 1)


@pytest.mark.box("S25.2", "genesis")
def test_another_genesis_gives_another_state():
    other = make_genesis(parameters=dataclasses.replace(PARAMETERS, leaseless=True))
    assert genesis_state(other).root != genesis_state(GENESIS).root


@pytest.mark.box("S2.3", "settings")
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_batch_actions": 0}, "max_batch_actions"),
        ({"max_batch_actions": 4097}, "max_batch_actions"),
        ({"max_batch_bytes": 1}, "max_batch_bytes"),
        ({"journal_events_per_segment": 0}, "journal_events_per_segment"),
        ({"max_batch_actions": 4096, "journal_events_per_segment": 1}, "journal_events_per_segment"),
        ({"snapshot_interval": 0}, "snapshot_interval"),
    ],
)
def test_parameters_out_of_range_are_refused(fields, name):
    with pytest.raises(InvalidField) as caught:
        chain_from_genesis(make_genesis(parameters=dataclasses.replace(PARAMETERS, **fields)))
    assert caught.value.field == f"parameters.{name}"


@pytest.mark.box("S1.2", "genesis")
def test_a_genesis_must_be_signed_and_of_one_world():
    with pytest.raises(Unauthorized):
        check_genesis(dataclasses.replace(GENESIS, signatures=()))
    with pytest.raises(AgentWorldError):
        check_genesis(dataclasses.replace(GENESIS, created_at_ms=7))
    with pytest.raises(Unauthorized):
        check_genesis(add_signature(dataclasses.replace(GENESIS, signatures=()), signer("eve")))
    with pytest.raises(WrongWorld):
        check_genesis(dataclasses.replace(GENESIS, world_id="borealis"))
    second = dataclasses.replace(GENESIS.directory, epoch=2)
    with pytest.raises(StateMismatch):
        check_genesis(dataclasses.replace(GENESIS, directory=second))

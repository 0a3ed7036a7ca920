from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentworld_core.errors import AgentWorldError, MalformedEncoding, StateMismatch
from agentworld_core.messages import DirectoryChange
from agentworld_core.world.events import EVENT_KINDS, apply_event
from agentworld_core.world.kernel import MAILBOX_LIMIT, StepInput, replay_events, step
from agentworld_core.world.nonces import NONCE_WINDOW, NonceWindow
from agentworld_core.world.state import (
    DirectoryRecord,
    Draft,
    MailRecord,
    directory_key,
    mail_key,
    mailbox_prefix,
    read,
    read_agent,
    read_meta,
    read_nonces,
    read_object,
)
from tests.unit.core.world.agents import World, action, empty_world, register, signer


def codes(receipts):
    return [receipt.code for receipt in receipts]


def a_world_of(*names: str) -> World:
    world = World()
    assert codes(world.do(*[register(name) for name in names])) == [""] * len(names)
    return world


@pytest.mark.box("S0.3", "tick")
def test_a_step_without_actions_is_one_event_and_changes_the_state():
    world = World()
    result = world.step()
    assert [(event.kind, event.event_id, event.tick) for event in result.events] == [("step.started", 1, 1)]
    assert result.receipts == ()
    assert result.tick == 1
    assert dataclasses.astuple(read_meta(world.tree)) == (1, 100, 2)
    assert world.tree != world.first


@pytest.mark.box("S0.3", "register")
def test_registration_binds_the_key_and_sets_the_place():
    world = World()
    result = world.step(register("ada", at=(3, -4)))
    assert [event.kind for event in result.events] == ["step.started", "agent.registered", "nonces.used"]
    agent = read_agent(world.tree, "ada")
    assert agent is not None
    assert (agent.public_key, agent.x, agent.y) == (signer("ada").public_key, 3, -4)
    receipt = result.receipts[0]
    assert (receipt.ok, receipt.code, receipt.height, receipt.position) == (True, "", 1, 0)
    assert (receipt.first_event_id, receipt.event_count) == (2, 1)
    assert result.events[1].caused_by == receipt.action_id == register("ada", at=(3, -4)).action_id


@pytest.mark.box("S0.3", "register")
def test_registering_again_and_acting_unregistered_are_refused():
    world = a_world_of("ada")
    assert codes(world.do(register("ada", 1))) == ["already_exists"]
    assert codes(world.do(action("bob", "agent.move", {"to": [0, 0]}, 0))) == ["not_found"]
    assert codes(world.do(register("ada", 5, key="eve"))) == ["unauthorized"]


@pytest.mark.box("S0.3", "move")
def test_a_move_says_from_where_to_where():
    world = a_world_of("ada")
    event = world.step(action("ada", "agent.move", {"to": [5, 6]}, 1)).events[1]
    assert (event.kind, event.payload) == ("agent.moved", {"agent_id": "ada", "from": [0, 0], "to": [5, 6]})
    agent = read_agent(world.tree, "ada")
    assert agent is not None
    assert (agent.x, agent.y) == (5, 6)


def test_objects_belong_to_who_made_them():
    world = a_world_of("ada", "bob")
    make = {"object_id": "lamp", "data": {"lit": False}}
    assert codes(world.do(action("ada", "object.create", make, 1))) == [""]
    assert codes(world.do(action("bob", "object.create", make, 1))) == ["already_exists"]
    assert codes(world.do(action("bob", "object.update", make, 2))) == ["unauthorized"]
    assert codes(world.do(action("ada", "object.update", {"object_id": "lamb", "data": 1}, 2))) == ["not_found"]
    assert codes(world.do(action("ada", "object.update", {"object_id": "lamp", "data": [1, b"x"]}, 3))) == [""]
    lamp = read_object(world.tree, "lamp")
    assert lamp is not None
    assert dataclasses.astuple(lamp) == ("ada", 2, [1, b"x"])


@pytest.mark.box("S0.3", "mailbox")
def test_messages_arrive_in_order_and_are_cleared_by_their_reader():
    world = a_world_of("ada", "bob")
    world.do(*[action("ada", "message.send", {"to": "bob", "body": f"m{n}"}, n) for n in (1, 2, 3)])
    assert [key for key, _ in world.tree.items(mailbox_prefix("bob"))] == [mail_key("bob", n) for n in (1, 2, 3)]
    assert read(world.tree, mail_key("bob", 2), MailRecord) == MailRecord("ada", "m2", 2)
    assert codes(world.do(action("bob", "mailbox.clear", {"up_to": 2}, 1))) == [""]
    assert [key for key, _ in world.tree.items(mailbox_prefix("bob"))] == [mail_key("bob", 3)]
    assert codes(world.do(action("bob", "mailbox.clear", {"up_to": 2}, 2))) == ["not_found"]
    event = world.step(action("bob", "mailbox.clear", {"up_to": 2**63}, 3)).events[1]
    assert event.payload == {"agent_id": "bob", "first": 3, "last": 3}
    assert codes(world.do(action("ada", "message.send", {"to": "carl", "body": ""}, 9))) == ["not_found"]


@pytest.mark.box("S0.3", "mailbox")
def test_a_mailbox_is_bounded_and_works_again_once_cleared():
    world = a_world_of("ada", "bob")
    sends = [action("ada", "message.send", {"to": "bob", "body": n}, n + 1) for n in range(MAILBOX_LIMIT + 1)]
    assert codes(world.do(*sends)) == [""] * MAILBOX_LIMIT + ["mailbox_full"]
    after = [
        action("bob", "mailbox.clear", {"up_to": 1}, 1),
        action("ada", "message.send", {"to": "bob", "body": "in again"}, 1000),
    ]
    assert codes(world.do(*after)) == ["", ""]


@pytest.mark.box("S5.1", "dedup-in-state")
@pytest.mark.parametrize("repeat", ["same action", "same nonce"])
@pytest.mark.parametrize("place", ["same step", "later step"])
def test_a_nonce_counts_once(repeat, place):
    world = a_world_of("ada")
    first = action("ada", "agent.move", {"to": [1, 1]}, 1)
    second = first if repeat == "same action" else action("ada", "agent.move", {"to": [2, 2]}, 1)
    receipts = world.do(first, second) if place == "same step" else [*world.do(first), *world.do(second)]
    assert codes(receipts) == ["", "nonce_used"]
    agent = read_agent(world.tree, "ada")
    assert agent is not None
    assert (agent.x, agent.y) == (1, 1)


def test_a_refused_action_is_spent_too():
    """Else a refusal could turn into a success when somebody sends the same action again."""
    world = World()
    early = action("ada", "agent.move", {"to": [1, 1]}, 7)
    assert codes(world.do(early)) == ["not_found"]
    assert codes(world.do(register("ada"), early)) == ["", "nonce_used"]


def test_a_wrong_key_uses_up_nothing_of_the_actor():
    world = a_world_of("ada")
    assert codes(world.do(action("ada", "agent.move", {"to": [9, 9]}, 1, key="eve"))) == ["unauthorized"]
    assert codes(world.do(action("ada", "agent.move", {"to": [1, 1]}, 1))) == [""]
    assert read_nonces(world.tree, "ada", signer("ada").key_id) == NonceWindow(low=2)
    assert read_nonces(world.tree, "ada", signer("eve").key_id) == NonceWindow(low=0, used=0b10)


@pytest.mark.box("S7.1", "old-or-future")
def test_nonces_below_the_window_are_refused():
    world = a_world_of("ada")
    moves = [action("ada", "agent.move", {"to": [0, 0]}, nonce) for nonce in (NONCE_WINDOW + 10, 11, 10)]
    assert codes(world.do(*moves)) == ["", "", "nonce_used"]


@pytest.mark.box("S0.3", "outcome")
def test_a_failing_action_does_not_stop_the_step():
    world = a_world_of("ada")
    result = world.step(
        action("ada", "dragon.summon", {}, 1),
        action("ada", "agent.move", {"to": "there"}, 2),
        action("ada", "agent.move", {"to": [1, 2]}, 3),
    )
    assert codes(result.receipts) == ["unsupported", "invalid_field", ""]
    assert [event.kind for event in result.events[1:-1]] == ["action.rejected", "action.rejected", "agent.moved"]
    assert result.events[1].payload == {
        "actor_id": "ada",
        "code": "unsupported",
        "reason": "no rule for actions of kind dragon.summon",
    }
    assert [receipt.ok for receipt in result.receipts] == [False, False, True]
    assert all(receipt.message for receipt in result.receipts if not receipt.ok)


@pytest.mark.box("S0.3", "event-ids")
def test_event_ids_go_on_over_steps_and_receipts_point_to_their_events():
    world = a_world_of("ada", "bob")
    for nonce in range(1, 5):
        result = world.step(*[action(name, "agent.move", {"to": [nonce, 0]}, nonce) for name in ("ada", "bob")])
        by_id = {event.event_id: event for event in result.events}
        for receipt in result.receipts:
            assert by_id[receipt.first_event_id].caused_by == receipt.action_id
    assert [event.event_id for event in world.events] == list(range(1, len(world.events) + 1))


def test_the_deepest_data_that_fits_a_payload_goes_through():
    world = a_world_of("ada")
    data: object = 1
    for _ in range(15):
        data = [data]
    assert codes(world.do(action("ada", "object.create", {"object_id": "deep", "data": data}, 1))) == [""]
    found = read_object(world.tree, "deep")
    assert found is not None
    assert found.data == data


def test_a_directory_is_recorded_in_the_state():
    change = DirectoryChange(epoch=2, directory_hash="a" * 64, effective_height=7)
    result = step(empty_world(), StepInput(height=1, time_ms=0, actions=(), directory_change=change))
    assert [event.kind for event in result.events] == ["step.started", "directory.scheduled"]
    assert read(result.tree, directory_key(2), DirectoryRecord) == DirectoryRecord("a" * 64, 7)


NAMES = st.sampled_from(["ada", "bob", "eve"])
PLACES = st.tuples(st.integers(-9, 9), st.integers(-9, 9)).map(list)
ACTIONS = st.builds(
    lambda actor, rest, nonce, key: action(actor, rest[0], rest[1], nonce, key=key),
    NAMES,
    st.one_of(
        PLACES.map(lambda place: ("agent.register", {"position": place})),
        PLACES.map(lambda place: ("agent.move", {"to": place})),
        st.builds(
            lambda kind, name: (kind, {"object_id": name, "data": name}),
            st.sampled_from(["object.create", "object.update"]),
            NAMES,
        ),
        NAMES.map(lambda name: ("message.send", {"to": name, "body": [name]})),
        st.integers(0, 9).map(lambda number: ("mailbox.clear", {"up_to": number})),
        st.just(("agent.move", {"nothing": None})),
    ),
    st.integers(0, 12),
    st.sampled_from(["", "", "", "eve"]),
)


@pytest.mark.box("S0.3", "world", "every-change-is-an-event")
@given(st.lists(st.lists(ACTIONS, max_size=8), max_size=5))
def test_the_events_alone_rebuild_the_state_and_no_action_succeeds_twice(batches):
    world = World()
    succeeded = []
    for batch in batches:
        result = world.step(*batch)
        assert len(result.receipts) == len(batch)
        succeeded += [receipt.action_id for receipt in result.receipts if receipt.ok]
        assert replay_events(world.first, world.events) == world.tree
    assert len(succeeded) == len(set(succeeded))
    assert {event.kind for event in world.events} <= set(EVENT_KINDS)


@given(st.lists(ACTIONS, max_size=8), st.lists(ACTIONS, max_size=8))
def test_a_step_is_a_function_of_state_and_input(before, batch):
    worlds = [World(), World()]
    for world in worlds:
        world.step(*before)
    one, other = (world.step(*batch) for world in worlds)
    assert (one.events, one.receipts, one.tree.root) == (other.events, other.receipts, other.tree.root)


def _changed(events, index, **fields):
    return [dataclasses.replace(event, **fields) if place == index else event for place, event in enumerate(events)]


@pytest.mark.box("S0.3", "event-fits")
@pytest.mark.parametrize(
    ("index", "fields", "error"),
    [
        (0, {"event_id": 2}, StateMismatch),
        (0, {"tick": 2}, StateMismatch),
        (0, {"payload": {"time_ms": -1}}, StateMismatch),
        (0, {"payload": {}}, MalformedEncoding),
        (0, {"payload": None}, MalformedEncoding),
        (0, {"kind": "agent.moved"}, AgentWorldError),
        (1, {"tick": 2}, StateMismatch),
        (1, {"kind": "dragon.summoned"}, MalformedEncoding),
        (1, {"payload": {"agent_id": "ada", "public_key": b"", "position": [1]}}, MalformedEncoding),
        (2, {"payload": {"agent_id": "nobody", "from": [0, 0], "to": [1, 1]}}, StateMismatch),
        (3, {"payload": {"used": [["ada", "k", 0], ["ada", "k", 0]]}}, StateMismatch),
        (3, {"payload": {"used": ["ada"]}}, MalformedEncoding),
        (3, {"kind": "mailbox.cleared", "payload": {"agent_id": "ada", "first": 1, "last": 1}}, StateMismatch),
    ],
)
def test_a_journal_that_does_not_fit_is_refused(index, fields, error):
    world = World()
    world.step(register("ada"), action("ada", "agent.move", {"to": [1, 1]}, 1))
    with pytest.raises(error):
        replay_events(world.first, _changed(world.events, index, **fields))


@pytest.mark.box("S0.3", "event-ids")
def test_a_gap_in_the_journal_is_refused():
    world = a_world_of("ada")
    world.step()
    draft = Draft(world.first)
    apply_event(draft, world.events[0])
    with pytest.raises(StateMismatch):
        apply_event(draft, world.events[2])


def test_a_tree_without_counters_is_no_world():
    with pytest.raises(MalformedEncoding):
        read_meta(a_world_of("ada").tree.update({b"meta": None}))

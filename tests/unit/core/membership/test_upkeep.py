"""The upkeep of a whole world's membership, and which revocations are carried out: one pure decision each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from agentworld_core.membership.builder import Changes, key_entry, revoked_key
from agentworld_core.membership.directory import find_member
from agentworld_core.membership.rings import Generation, KeyRing, next_rotation_ms, wanted_generation
from agentworld_core.membership.rotation import Progress
from agentworld_core.membership.steps import Done, PublishDirectory, Refused, Wait
from agentworld_core.membership.upkeep import (
    FORCE_REMOVE,
    NodeWord,
    Upkeep,
    build_next,
    keys_in_use,
    may_follow,
    node_of_key,
    plan_upkeep,
)
from agentworld_core.membership.wishes import FORCE_REVOKE, plan_revocations
from agentworld_core.messages import Directory
from agentworld_core.topology.plan import Topology, plan_world
from agentworld_core.topology.resources import MembershipKey, Validator, World, parse_manifest
from tests.unit.core.membership.worlds import first_directory, member, signer, statement, successor

NAMES = [f"aurora-{n}" for n in range(4)]
GOVERNANCE = "aurora-governance"


def manifest(kind: str, name: str, *, annotations: Mapping[str, str] | None = None, **spec: Any) -> Any:
    metadata = {"name": name, "annotations": dict(annotations or {})}
    return parse_manifest({"apiVersion": "agentworld.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})


def topology(
    replicas: int = 4, *resources: Validator | MembershipKey, annotations: Mapping[str, str] | None = None, **spec: Any
) -> Topology:
    world: World = manifest(
        "World", "aurora", annotations=annotations, validators={"replicas": replicas}, gateway={"replicas": 0}, **spec
    )
    validators = [item for item in resources if isinstance(item, Validator)]
    return plan_world(world, validators, [item for item in resources if isinstance(item, MembershipKey)])


def signing_key(name: str, **spec: Any) -> MembershipKey:
    annotations = spec.pop("annotations", None)
    key = manifest("MembershipKey", name, annotations=annotations, **{"world": "aurora", "validator": name, **spec})
    assert isinstance(key, MembershipKey)
    return key


def directory(*names: str, **options: Any) -> Directory:
    return first_directory(dict.fromkeys(names or NAMES, 1), governance=[GOVERNANCE], **options)


def ring(name: str, *numbers: int, active: int | None = None, **progress: Any) -> KeyRing:
    """The ring of a name, whose first generation is the key of its name."""
    made = [
        Generation(
            number=number, public_key=signer(name if number == 1 else f"{name}-g{number}").public_key, asked=number
        )
        for number in numbers or (1,)
    ]
    active_key = made[0] if active is None else next(item for item in made if item.number == active)
    return KeyRing(generations=tuple(made), active_key_id=active_key.key_id, progress=Progress(**progress))


def facts(plan: Topology, current: Directory, **changes: Any) -> Upkeep:
    rings = {key.name: ring(key.name) for key in keys_in_use(plan)}
    words = {
        node.node_id: NodeWord(epoch=current.epoch, active_key_id=signer(node.node_id).key_id, in_sync=True)
        for node in plan.nodes
    }
    base = Upkeep(
        topology=plan,
        current=current,
        pending=None,
        words=words,
        rings=rings,
        peer_ids={node.node_id: f"peer-{node.node_id}" for node in plan.nodes},
        now_ms=10_000,
    )
    return dataclasses.replace(base, **changes)


def settled(current: Directory) -> Directory:
    """The directory with members exactly as the plan would write them."""
    roles = ("validator", "storage", "sequencer")
    return dataclasses.replace(
        current, members=tuple(dataclasses.replace(item, roles=roles) for item in current.members)
    )


def test_a_world_as_it_should_be_needs_nothing() -> None:
    plan = plan_upkeep(facts(topology(), settled(directory())))

    assert (plan.make, plan.switch, plan.publish, plan.members) == ((), (), None, Done())
    assert {name: rotation.step for name, rotation in plan.rotations.items()} == dict.fromkeys(
        [*NAMES, GOVERNANCE], Done()
    )


def test_a_new_generation_is_made_then_trusted() -> None:
    world = topology(4, signing_key("aurora-1", generation=2))
    current = settled(directory())
    assert plan_upkeep(facts(world, current)).make == (("aurora-1", 2),)

    with_key = facts(world, current)
    rings = {**with_key.rings, "aurora-1": ring("aurora-1", 1, 2)}
    plan = plan_upkeep(dataclasses.replace(with_key, rings=rings))
    assert plan.publish is not None
    proposed = build_next(current, plan.publish, now_ms=1)
    found = find_member(proposed, "aurora-1")
    assert found is not None
    assert [key.generation for key in found.keys] == [1, 2]

    waiting = plan_upkeep(dataclasses.replace(with_key, rings=rings, pending=proposed))
    assert waiting.publish is None, "one directory at a time"


def test_a_replacement_for_a_revoked_key_comes_before_a_new_member() -> None:
    lost = statement(signer("aurora-1").key_id, GOVERNANCE)
    begun = facts(topology(5), settled(directory()))
    rings = {**begun.rings, "aurora-1": ring("aurora-1", 1, 2)}
    plan = plan_upkeep(dataclasses.replace(begun, rings=rings, revoked=(revoked_key(lost),)))

    assert plan.publish is not None
    assert plan.publish.reason == "trust generation 2"
    proposed = build_next(begun.current, plan.publish, now_ms=1)
    assert [item.key_id for item in proposed.revoked] == [lost.key_id]


@pytest.mark.box("S27.1", "add")
def test_a_member_joins_when_it_has_caught_up_and_leaves_before_its_node_goes() -> None:
    begun = facts(topology(5), settled(directory()))
    behind = {**begun.words, "aurora-4": NodeWord(epoch=1)}
    assert plan_upkeep(dataclasses.replace(begun, words=behind)).members == Wait("JoiningToSync", ("aurora-4",))

    joining = plan_upkeep(begun).publish
    assert joining is not None
    grown = build_next(begun.current, joining, now_ms=1)
    assert [item.member_id for item in grown.members] == [*NAMES, "aurora-4"]

    leaving = plan_upkeep(facts(topology(4), grown)).publish
    assert leaving is not None
    assert leaving.reason == "remove aurora-4"


def test_a_member_whose_key_cannot_be_read_is_not_asked_to_leave() -> None:
    begun = facts(topology(), settled(directory()))
    rings = {name: item for name, item in begun.rings.items() if name != "aurora-2"}

    plan = plan_upkeep(dataclasses.replace(begun, rings=rings, peer_ids={}))
    assert isinstance(plan.members, Done)
    assert "aurora-2" not in plan.rotations


@pytest.mark.box("S27.1", "quorum-kept")
def test_leaving_is_forced_by_the_world_or_by_all_who_leave() -> None:
    current = settled(directory())
    assert isinstance(plan_upkeep(facts(topology(1), current)).members, Refused)
    forced = plan_upkeep(facts(topology(1, annotations={FORCE_REMOVE: "true"}), current))
    assert isinstance(forced.members, PublishDirectory)

    def drained(name: str, forced: bool) -> Validator:
        annotations = {FORCE_REMOVE: "true"} if forced else {}
        found = manifest("Validator", name, annotations=annotations, world="aurora", drain=True)
        assert isinstance(found, Validator)
        return found

    one = topology(4, drained("aurora-2", True), drained("aurora-3", False))
    assert isinstance(plan_upkeep(facts(one, current)).members, Refused)
    both = topology(4, drained("aurora-2", True), drained("aurora-3", True))
    assert isinstance(plan_upkeep(facts(both, current)).members, PublishDirectory)


def test_changed_rules_wait_until_their_keys_are_trusted() -> None:
    keys = [manifest("MembershipKey", name, world="aurora", purpose="Governance") for name in ("one", "two")]
    world = topology(4, *keys, governance={"keys": ["one", "two"], "threshold": 2}, consensus={"faultModel": "Crash"})
    current = settled(directory())
    first = plan_upkeep(facts(world, current)).publish
    assert first is not None
    assert first.reason == "trust generation 1"

    trusted = dataclasses.replace(
        current, governance=tuple(key_entry(signer(name).public_key, 1) for name in (GOVERNANCE, "one", "two"))
    )
    plan = plan_upkeep(facts(world, trusted)).publish
    assert plan is not None
    proposed = build_next(trusted, plan, now_ms=1)
    assert (proposed.fault_model, proposed.governance_threshold) == ("Crash", 2)
    assert sorted(key.key_id for key in proposed.governance) == sorted(signer(name).key_id for name in ("one", "two"))


def test_a_revocation_that_nothing_carries_gets_an_epoch_of_its_own() -> None:
    foreign = statement("f" * 32, GOVERNANCE)
    begun = facts(topology(), settled(directory()), revoked=(revoked_key(foreign),))

    publish = plan_upkeep(begun).publish
    assert publish is not None
    assert publish.reason == "list revoked keys"
    listed = build_next(begun.current, publish, now_ms=1)
    assert [item.key_id for item in listed.revoked] == ["f" * 32]
    assert plan_upkeep(dataclasses.replace(begun, current=listed)).publish is None


def test_an_epoch_never_leaves_a_member_or_governance_without_a_key() -> None:
    current = settled(directory())
    gone = [revoked_key(statement(signer(name).key_id, GOVERNANCE)) for name in ("aurora-0", GOVERNANCE)]

    proposed = build_next(current, PublishDirectory(Changes(revoked=gone), "x" * 400), now_ms=1)
    assert proposed.revoked == ()
    assert len(proposed.reason or "") == 256


def test_a_signed_epoch_may_follow_while_it_fits_and_trusts_no_revoked_key() -> None:
    current = first_directory({"a": 1})
    proposed = successor(current, Changes(members=[member("a"), member("b")]))

    assert may_follow(current, proposed, ())
    assert not may_follow(current, proposed, (signer("b").key_id,))
    assert not may_follow(current, proposed, (signer("gov").key_id,))
    assert not may_follow(proposed, proposed, ())
    assert not may_follow(first_directory({"b": 1}), proposed, ())


def test_the_node_of_a_key_is_found() -> None:
    node = node_of_key(topology(), "aurora-3")
    assert node is not None
    assert node.node_id == "aurora-3"
    assert node_of_key(topology(), GOVERNANCE) is None


# Rings


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({"generation": 1}, 2), ({"generation": 2}, 2), ({"generation": 3}, 3), ({"generation": 5}, 5)],
)
def test_a_person_asks_for_a_generation(asked: dict[str, int], expected: int) -> None:
    assert wanted_generation(signing_key("k", **asked).spec, ring("k", 1, 2), now_ms=0) == expected


def test_the_first_generation_is_the_one_of_the_manifest() -> None:
    assert wanted_generation(signing_key("k", generation=3).spec, KeyRing(), now_ms=0) == 3
    assert KeyRing().newest is None


def test_the_clock_does_not_swallow_a_wish() -> None:
    by_clock = Generation(number=2, public_key=signer("k-g2").public_key, asked=1)
    both = ring("k").with_generation(by_clock)

    assert both.newest == by_clock
    assert wanted_generation(signing_key("k", generation=2).spec, both, now_ms=0) == 3


def test_the_clock_asks_when_the_newest_has_signed_for_the_interval() -> None:
    spec = signing_key("k", rotation={"interval": "10s", "overlap": "1s"}).spec
    since: dict[str, Any] = {"signing_key_id": signer("k").key_id, "signing_since_ms": 5_000}
    signing = ring("k", **since)

    assert next_rotation_ms(spec, signing) == 15_000
    assert wanted_generation(spec, signing, now_ms=14_999) == 1
    assert wanted_generation(spec, signing, now_ms=15_000) == 2
    assert next_rotation_ms(spec, ring("k", 1, 2, **since)) is None, "a rotation is under way"
    assert next_rotation_ms(spec, ring("k")) is None
    suspended = dataclasses.replace(spec, rotation=dataclasses.replace(spec.rotation, suspend=True))
    assert next_rotation_ms(suspended, signing) is None


def test_a_revocation_that_waits_asks_for_a_replacement() -> None:
    assert wanted_generation(signing_key("k").spec, ring("k"), now_ms=0, replace_first=[signer("k").key_id]) == 2


# Wishes


def revoking(name: str, *key_ids: str, **options: Any) -> MembershipKey:
    return signing_key(name, revoked=[{"keyId": key_id} for key_id in key_ids], **options)


def test_each_wish_is_signed_once() -> None:
    lost = signer("aurora-0").key_id
    plan = plan_revocations([revoking("aurora-0", lost, "f" * 32)], directory(), [])
    assert [(wish.key, wish.entry.key_id, wish.forced) for wish in plan.sign] == [
        ("aurora-0", lost, False),
        ("aurora-0", "f" * 32, False),
    ]
    assert plan_revocations([revoking("aurora-0", lost)], directory(), [lost]).sign == ()


def test_wishes_that_would_take_the_quorum_wait_for_replacements() -> None:
    lost = [signer(name).key_id for name in NAMES]
    keys = [revoking(name, key_id) for name, key_id in zip(NAMES, lost, strict=True)]

    plan = plan_revocations(keys, directory(), [])
    assert [wish.entry.key_id for wish in plan.sign] == lost[:1]
    assert plan.replace_first == tuple(lost[1:])
    forced = [
        revoking(name, key_id, annotations={FORCE_REVOKE: "true"}) for name, key_id in zip(NAMES, lost, strict=True)
    ]
    assert len(plan_revocations(forced, directory(), []).sign) == 4


def test_the_last_governance_key_is_refused_with_the_way_out() -> None:
    lost = signer(GOVERNANCE).key_id
    key = manifest("MembershipKey", GOVERNANCE, world="aurora", purpose="Governance", revoked=[{"keyId": lost}])

    plan = plan_revocations([key], directory(), [])
    assert plan.sign == ()
    assert "raise spec.generation of the governance key first" in plan.refused[lost]
    assert f'annotate MembershipKey {GOVERNANCE} with {FORCE_REVOKE}: "true"' in plan.refused[lost]

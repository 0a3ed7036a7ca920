"""A planned world's genesis is complete, signed and always the same bytes."""

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidField
from agentworld_core.membership.directory import check_first_directory, check_threshold
from agentworld_core.messages import Genesis
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.genesis import MemberIdentity, build_genesis, sign_genesis
from agentworld_core.topology.plan import Topology, plan_world
from tests.unit.core.topology.manifests import validator, world


def signer(name: str) -> Ed25519Signer:
    return Ed25519Signer(name.encode().ljust(32, b"."))


ROOT = signer("root")


def identities(plan: Topology) -> dict[str, MemberIdentity]:
    return {
        node.name: MemberIdentity(
            peer_id=peer_id_of(signer("net" + node.name).public_key), public_key=signer(node.name).public_key
        )
        for node in plan.members
    }


def genesis_of(plan: Topology) -> Genesis:
    return build_genesis(plan, identities(plan), {"aurora-governance": (ROOT.public_key, 1)}, created_at_ms=1_000)


def test_the_genesis_of_a_world_verifies_from_its_own_keys() -> None:
    plan = plan_world(world(validators={"replicas": 4}), [], [])
    genesis = sign_genesis(genesis_of(plan), [ROOT])
    check_first_directory(genesis.directory)
    check_threshold(genesis, genesis.directory)
    assert [member.member_id for member in genesis.directory.members] == [f"aurora-{n}" for n in range(4)]
    assert decode(Genesis, encode(genesis)) == genesis
    assert encode(sign_genesis(genesis_of(plan), [ROOT])) == encode(genesis)


def test_leaving_validators_are_not_in_the_genesis() -> None:
    plan = plan_world(world(), [validator("v", drain=True)], [])
    assert [member.member_id for member in genesis_of(plan).directory.members] == ["aurora-0"]


def test_too_few_signers_are_refused() -> None:
    plan = plan_world(world(), [], [])
    with pytest.raises(InvalidField, match="fewer governance signers"):
        sign_genesis(genesis_of(plan), [signer("stranger")])


def test_a_missing_identity_or_governance_key_or_a_problem_stops_it() -> None:
    plan = plan_world(world(), [], [])
    with pytest.raises(InvalidField, match="aurora-0"):
        build_genesis(plan, {}, {"aurora-governance": (ROOT.public_key, 1)}, created_at_ms=1)
    with pytest.raises(InvalidField, match="aurora-governance"):
        build_genesis(plan, identities(plan), {}, created_at_ms=1)
    with pytest.raises(InvalidField, match="without validators"):
        genesis_of(plan_world(world(validators={"replicas": 0}), [], []))

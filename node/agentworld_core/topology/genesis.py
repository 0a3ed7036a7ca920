"""The genesis document of a planned world: parameters, directory epoch 1 and modules, signed by its governance keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import GenesisModule
from agentworld_core.membership.directory import FIRST_EPOCH
from agentworld_core.messages import Directory, Genesis, KeyEntry, Member
from agentworld_core.signing import Signer, add_signature, key_id_of
from agentworld_core.topology.plan import Topology

ACTIVATION_DELAY = 2
"""A directory change governs from the second height after the block that carries it: its own vote is by the old one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemberIdentity:
    """The public halves of a member: who it is on the network, and the key it signs with."""

    peer_id: str
    public_key: bytes
    generation: int = 1


def build_genesis(
    topology: Topology,
    identities: Mapping[str, MemberIdentity],
    governance: Mapping[str, tuple[bytes, int]],
    *,
    created_at_ms: int,
    modules: Sequence[GenesisModule] = (),
) -> Genesis:
    """Returns the unsigned genesis of a world.

    ``identities`` are by name of the Validator resource, ``governance`` gives (public key, generation) by name of the
    MembershipKey, ``modules`` are those of the spec with their code. Raises InvalidField when the plan has problems, or
    an identity or a module is missing.
    """
    if topology.problems:
        raise topology.problems[0]
    members = []
    for node in topology.members:
        if node.name not in identities:
            raise InvalidField("has no identity yet", field="identities", value=node.name)
        members.append(member_of(node.node_id, identities[node.name], weight=node.weight, roles=node.roles))
    keys = []
    for name in topology.governance_keys:
        if name not in governance:
            raise InvalidField("has no key yet", field="governance", value=name)
        keys.append(key_entry(*governance[name]))
    world = topology.world.spec
    if len(modules) != len(world.genesis.modules):
        raise InvalidField("are not resolved", field="spec.genesis.modules", value=len(world.genesis.modules))
    directory = Directory(
        world_id=world.world_id,
        epoch=FIRST_EPOCH,
        previous_hash="",
        members=tuple(sorted(members, key=lambda member: member.member_id)),
        fault_model=world.consensus.fault_model,
        governance=tuple(sorted(keys, key=lambda entry: entry.key_id)),
        governance_threshold=world.governance.threshold,
        revoked=(),
        activation_delay=ACTIVATION_DELAY,
        issued_at_ms=created_at_ms,
        expires_at_ms=None,
        reason="genesis",
        signatures=(),
    )
    return Genesis(
        world_id=world.world_id,
        created_at_ms=created_at_ms,
        parameters=topology.parameters,
        directory=directory,
        signatures=(),
        modules=tuple(modules),
    )


def sign_genesis(genesis: Genesis, signers: Iterable[Signer]) -> Genesis:
    """Returns the genesis and its directory signed by every signer; raises InvalidField when they are too few."""
    signers = list(signers)
    trusted = [entry.key_id for entry in genesis.directory.governance]
    count = len([signer for signer in signers if signer.key_id in trusted])
    if count < genesis.directory.governance_threshold:
        raise InvalidField(
            "has fewer governance signers than its threshold",
            field="governance",
            value=count,
            remedy=f"sign with {genesis.directory.governance_threshold} of the governance keys",
        )
    directory = genesis.directory
    for signer in signers:
        directory = add_signature(directory, signer)
    genesis = dataclasses.replace(genesis, directory=directory)
    for signer in signers:
        genesis = add_signature(genesis, signer)
    return genesis


def member_of(member_id: str, identity: MemberIdentity, *, weight: int, roles: tuple[str, ...]) -> Member:
    """Returns a directory member with one key."""
    return Member(
        member_id=member_id,
        peer_id=identity.peer_id,
        keys=(key_entry(identity.public_key, identity.generation),),
        weight=weight,
        roles=roles,
    )


def key_entry(public_key: bytes, generation: int) -> KeyEntry:
    """Returns the directory's entry of a public key."""
    return KeyEntry(key_id=key_id_of(public_key), public_key=public_key, generation=generation)

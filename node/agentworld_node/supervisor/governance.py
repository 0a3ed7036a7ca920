"""Signs for the governance of a world with the keys of its home: genesis, directories, revocations."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterable, Sequence

from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import GenesisModule
from agentworld_core.membership.directory import check_next_directory
from agentworld_core.membership.steps import PublishDirectory
from agentworld_core.membership.upkeep import build_next
from agentworld_core.membership.wishes import Wish
from agentworld_core.messages import Directory, Genesis, Revocation
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer, add_signature
from agentworld_core.topology.genesis import MemberIdentity, build_genesis, sign_genesis
from agentworld_core.topology.plan import Topology
from agentworld_node.supervisor.home import WorldHome


def make_genesis(home: WorldHome, topology: Topology, *, now_ms: int, modules: Sequence[GenesisModule] = ()) -> Genesis:
    """Returns the signed genesis of a world whose identities and keys exist."""
    identities = {}
    for node in topology.members:
        signing = home.ring(node.key).active
        if signing is None:
            raise InvalidField("has no key yet", field="identities", value=node.name)
        identities[node.name] = MemberIdentity(
            peer_id=peer_id_of(home.identity(node.node_id).public_key),
            public_key=signing.public_key,
            generation=signing.number,
        )
    governance = {}
    signers = []
    for name in topology.governance_keys:
        signing = home.ring(name).active
        if signing is not None:
            governance[name] = (signing.public_key, signing.number)
            signers.append(home.signers(name)[signing.number])
    unsigned = build_genesis(topology, identities, governance, created_at_ms=now_ms, modules=modules)
    return sign_genesis(unsigned, signers)


def make_directory(
    signers: Iterable[Ed25519Signer], current: Directory, step: PublishDirectory, *, now_ms: int
) -> Directory:
    """Returns the next epoch, signed by all governance keys that count in it or before it; a typed error if it may not.

    A change of governance needs the signatures of both sides, hence all of them.
    """
    proposed = build_next(current, step, now_ms=now_ms)
    gone = [entry.key_id for entry in current.revoked]
    trusted = [key.key_id for key in (*current.governance, *proposed.governance) if key.key_id not in gone]
    for signer in signers:
        if signer.key_id in trusted:
            proposed = add_signature(proposed, signer)
    check_next_directory(current, proposed)
    return proposed


def make_statement(
    signers: Iterable[Ed25519Signer], current: Directory, wish: Wish, *, known: Collection[str], now_ms: int
) -> Revocation:
    """Returns the signed revocation of a wish; its own key signs only where the threshold cannot do without."""
    statement = Revocation(
        world_id=current.world_id,
        key_id=wish.entry.key_id,
        reason=wish.entry.reason,
        revoked_at_ms=parse_time(wish.entry.at, field="spec.revoked") or now_ms,
        requester_id=wish.key,
        signatures=(),
    )
    trusted = [key.key_id for key in current.governance if key.key_id not in known]
    usable = [signer for signer in signers if signer.key_id in trusted]
    others = [signer for signer in usable if signer.key_id != wish.entry.key_id]
    for signer in others if len(others) >= current.governance_threshold else usable:
        statement = add_signature(statement, signer)
    return statement


def parse_time(text: str, *, field: str) -> int:
    """Returns the wall milliseconds of a time such as ``2026-01-31T12:00:00Z``, 0 for no text; else InvalidField."""
    if not text:
        return 0
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise InvalidField("is not a time", field=field, value=text, remedy="write it as 2026-01-31T12:00:00Z")
    return int(parsed.timestamp() * 1000)

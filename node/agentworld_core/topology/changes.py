"""What an edit of a manifest may change: the rules of the schemas that compare the old object with the new one.

On Kubernetes the API server refuses such an edit (CEL on ``oldSelf`` in ``crds/``); one machine and the operator ask
here.
"""

from __future__ import annotations

import re
from fractions import Fraction

from agentworld_core.errors import InvalidField
from agentworld_core.messages import Parameters
from agentworld_core.topology.member_specs import MembershipKeySpec
from agentworld_core.topology.plan import world_parameters
from agentworld_core.topology.pod_template import PodTemplate
from agentworld_core.topology.resources import MembershipKey, Resource, Validator, World

_QUANTITY = re.compile(r"([0-9]+)(?:\.([0-9]+))?([a-zA-Z]*)")
_UNITS = {
    "": Fraction(1),
    "m": Fraction(1, 1000),
    **{unit: Fraction(1000**power) for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{unit: Fraction(1024**power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}
_PARAMETERS = {
    "block_interval_ms": "spec.consensus.blockInterval",
    "max_batch_actions": "spec.consensus.maxActions",
    "max_batch_bytes": "spec.consensus.maxPayloadBytes",
    "journal_events_per_segment": "spec.storage.journalEventsPerSegment",
    "snapshot_interval": "spec.storage.snapshotInterval",
}


def check_change(old: Resource, new: Resource, *, settled: bool = True) -> list[InvalidField]:
    """Returns everything that forbids writing ``new`` over ``old``; an empty list allows it.

    ``settled`` says that what the object stands for exists: the genesis of a World, the key of a MembershipKey's
    generation. Before that a few more things may be corrected. Raises ValueError when the two are not one object.
    """
    if type(old) is not type(new) or old.name != new.name:
        raise ValueError("the old and the new manifest are of different objects")
    violations: list[InvalidField] = []
    if isinstance(old, World) and isinstance(new, World):
        _world(old, new, settled, violations)
    elif isinstance(old, Validator) and isinstance(new, Validator):
        _validator(old, new, violations)
    elif isinstance(old, MembershipKey) and isinstance(new, MembershipKey):
        _key(old.spec, new.spec, settled, violations)
    return violations


def without_effect(world: World, parameters: Parameters) -> list[str]:
    """Returns the paths of fields that ask for something else than the genesis document has fixed for ever."""
    wanted = world_parameters(world)
    return [path for name, path in _PARAMETERS.items() if getattr(wanted, name) != getattr(parameters, name)]


def _world(old: World, new: World, settled: bool, violations: list[InvalidField]) -> None:
    if new.spec.world_id != old.spec.world_id:
        violations.append(
            InvalidField(
                "worldId cannot be changed: it is part of every signature",
                field="spec.worldId",
                value=new.spec.world_id,
                remedy=f"leave {old.spec.world_id}, or make another World instead",
            )
        )
    if settled and new.spec.genesis != old.spec.genesis:
        violations.append(
            InvalidField(
                "genesis cannot be changed once the world is initialized: every block hangs on it",
                field="spec.genesis",
                remedy="leave it as it was and change modules by proposals (agentworld module publish), or make another"
                " World instead",
            )
        )
    _template(old.spec.validators.template, new.spec.validators.template, "spec.validators.template", violations)


def _validator(old: Validator, new: Validator, violations: list[InvalidField]) -> None:
    if new.spec.world != old.spec.world:
        violations.append(
            InvalidField(
                "a Validator cannot move to another World",
                field="spec.world",
                value=new.spec.world,
                remedy=f"leave {old.spec.world}, or make a new one there",
            )
        )
    if new.spec.validator_id != old.spec.validator_id:
        violations.append(
            InvalidField(
                "validatorId cannot be changed: votes are signed with it",
                field="spec.validatorId",
                value=new.spec.validator_id,
                remedy=f"leave {old.spec.validator_id}, or make another Validator instead",
            )
        )
    _template(old.spec.template, new.spec.template, "spec", violations)


def _template(old: PodTemplate, new: PodTemplate, path: str, violations: list[InvalidField]) -> None:
    if _amount(new.storage_size) < _amount(old.storage_size):
        violations.append(
            InvalidField(
                "a volume cannot shrink",
                field=f"{path}.storage.size",
                value=new.storage_size,
                remedy=f"keep {old.storage_size} or make it larger",
            )
        )
    if new.storage_class_name != old.storage_class_name:
        violations.append(
            InvalidField(
                "the storage class of a volume cannot be changed",
                field=f"{path}.storage.storageClassName",
                value=new.storage_class_name or None,
                remedy="leave it as it was, or make another Validator instead",
            )
        )


def _key(old: MembershipKeySpec, new: MembershipKeySpec, settled: bool, violations: list[InvalidField]) -> None:
    fixed = (
        ("world", "a MembershipKey cannot move to another World", "make a new one there"),
        ("purpose", "the purpose of a key cannot be changed", "make another MembershipKey instead"),
        ("validator", "a key cannot be handed to another validator", "make another MembershipKey instead"),
        ("algorithm", "the algorithm of a key cannot be changed", "make another MembershipKey instead"),
    )
    for name, message, way_out in fixed:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            remedy = f"leave {before}, or {way_out}" if before else f"remove it, or {way_out}"
            violations.append(InvalidField(message, field=f"spec.{name}", value=after or None, remedy=remedy))
    if new.generation < old.generation:
        violations.append(
            InvalidField(
                "generation never goes back: an old key is not used again",
                field="spec.generation",
                value=new.generation,
                remedy=f"use {old.generation}, or {old.generation + 1} to rotate",
            )
        )
    elif new.generation > old.generation + 1:
        violations.append(
            InvalidField(
                "generation grows by one at a time: wait until the rotation is done",
                field="spec.generation",
                value=new.generation,
                remedy=f"use {old.generation + 1}",
            )
        )
    _secret(old, new, settled, violations)
    _revoked(old, new, violations)


def _secret(old: MembershipKeySpec, new: MembershipKeySpec, settled: bool, violations: list[InvalidField]) -> None:
    if new.generation != old.generation:
        if new.secret is not None and new.secret == old.secret:
            violations.append(
                InvalidField(
                    "a new generation needs a new key",
                    field="spec.secretRef",
                    value=new.secret.name,
                    remedy="name another Secret, or remove secretRef to have a key made",
                )
            )
    elif settled and new.secret != old.secret:
        violations.append(
            InvalidField(
                "the key of this generation exists already",
                field="spec.secretRef",
                value=new.secret.name if new.secret else None,
                remedy="raise generation by one together with secretRef",
            )
        )


def _revoked(old: MembershipKeySpec, new: MembershipKeySpec, violations: list[InvalidField]) -> None:
    kept = {entry.key_id: (index, entry) for index, entry in enumerate(new.revoked)}
    for entry in old.revoked:
        if entry.key_id not in kept:
            violations.append(
                InvalidField(
                    "an entry of revoked cannot be removed: a revocation is for ever",
                    field="spec.revoked",
                    value=entry.key_id,
                    remedy="put it back as it was",
                )
            )
            continue
        index, found = kept[entry.key_id]
        if found != entry:
            violations.append(
                InvalidField(
                    "an entry of revoked cannot be changed: it has been signed and published",
                    field=f"spec.revoked[{index}]",
                    value=entry.key_id,
                    remedy=f"put back reason {entry.reason!r}" + (f" and at {entry.at!r}" if entry.at else ""),
                )
            )


def _amount(quantity: str) -> Fraction:
    """Returns the value of a Kubernetes quantity; the parser of manifests has judged its form."""
    matched = _QUANTITY.fullmatch(quantity)
    if matched is None or matched[3] not in _UNITS:
        raise ValueError(f"not a quantity: {quantity!r}")
    whole, fraction, unit = matched.groups()
    digits = fraction or ""
    return Fraction(int(whole + digits), 10 ** len(digits)) * _UNITS[unit]

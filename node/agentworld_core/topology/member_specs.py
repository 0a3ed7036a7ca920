"""The specs of a Validator and of a MembershipKey (spec of the custom resources)."""

from __future__ import annotations

import dataclasses

from agentworld_core.errors import InvalidField
from agentworld_core.ids import check_key_id
from agentworld_core.topology.durations import format_duration
from agentworld_core.topology.fields import Fields
from agentworld_core.topology.pod_template import PodTemplate, parse_pod_template

DEFAULT_ROLES = ("validator", "storage")
VALIDATOR_ROLES = ("validator", "storage", "executor", "sequencer", "gateway", "observer", "membership", "delivery")
PURPOSES = ("Governance", "Validator")
MAX_WEIGHT = 1_000_000
_HOUR = 3_600_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecretReference:
    """One entry of a Secret in the namespace of the resource."""

    name: str
    key: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidatorSpec:
    """Everything a Validator's manifest says, with defaults filled in."""

    world: str
    validator_id: str
    weight: int = 1
    roles: tuple[str, ...] = DEFAULT_ROLES
    template: PodTemplate = dataclasses.field(default_factory=PodTemplate)
    identity: SecretReference | None = None
    suspend: bool = False
    drain: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotationSpec:
    """When a key is rotated by itself, and how long the old one stays trusted; interval 0 means never by itself."""

    interval_ms: int = 0
    overlap_ms: int = 86_400_000
    suspend: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevokedSpec:
    """One entry of ``spec.revoked``: a key id that must never count again; ``at`` is text as given."""

    key_id: str
    reason: str = ""
    at: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembershipKeySpec:
    """Everything a MembershipKey's manifest says, with defaults filled in."""

    world: str
    purpose: str = "Validator"
    validator: str = ""
    algorithm: str = "Ed25519"
    generation: int = 1
    rotation: RotationSpec = RotationSpec()
    secret: SecretReference | None = None
    revoked: tuple[RevokedSpec, ...] = ()


def parse_validator_spec(fields: Fields, name: str) -> ValidatorSpec:
    """Reads ``spec`` of a Validator; what breaks a rule is noted in the reader."""
    identity = fields.section("identity")
    roles = fields.texts("roles", DEFAULT_ROLES, limit=8)
    for role in roles:
        if role not in VALIDATOR_ROLES:
            fields.violate("roles", "is not a role", value=role, remedy=f"use {', '.join(VALIDATOR_ROLES)}")
    if "validator" not in roles:
        fields.violate("roles", "must include validator", value=", ".join(roles), remedy="add the role validator")
    spec = ValidatorSpec(
        world=fields.identifier("world", required=True),
        validator_id=fields.identifier("validatorId", name),
        weight=fields.integer("weight", 1, minimum=1, maximum=MAX_WEIGHT),
        roles=roles,
        template=parse_pod_template(fields),
        identity=_secret(identity, "secretRef", "identity.pem"),
        suspend=fields.boolean("suspend"),
        drain=fields.boolean("drain"),
    )
    identity.finish()
    fields.finish()
    return spec


def parse_key_spec(fields: Fields) -> MembershipKeySpec:
    """Reads ``spec`` of a MembershipKey; what breaks a rule is noted in the reader."""
    purpose = fields.choice("purpose", PURPOSES, "Validator")
    validator = fields.identifier("validator")
    if purpose == "Validator" and not fields.has("validator"):
        fields.violate(
            "validator", "is required for purpose Validator", remedy="name the validator that signs with this key"
        )
    if purpose == "Governance" and validator:
        fields.violate("validator", "has no meaning for purpose Governance", value=validator, remedy="remove it")
    spec = MembershipKeySpec(
        world=fields.identifier("world", required=True),
        purpose=purpose,
        validator=validator,
        algorithm=fields.choice("algorithm", ("Ed25519",), "Ed25519"),
        generation=fields.integer("generation", 1, minimum=1, maximum=1_000_000),
        rotation=_rotation(fields.section("rotation")),
        secret=_secret(fields, "secretRef", "private.pem"),
        revoked=_revoked(fields),
    )
    fields.finish()
    return spec


def _rotation(fields: Fields) -> RotationSpec:
    spec = RotationSpec(
        interval_ms=fields.duration("interval", 0, minimum_ms=1_000, maximum_ms=87_600 * _HOUR),
        overlap_ms=fields.duration("overlap", 24 * _HOUR, minimum_ms=1_000, maximum_ms=8_760 * _HOUR),
        suspend=fields.boolean("suspend"),
    )
    if spec.interval_ms and spec.interval_ms < 2 * spec.overlap_ms:
        fields.violate(
            "interval",
            "must be at least twice the overlap",
            value=fields.raw("interval"),
            remedy=f"use at least {format_duration(2 * spec.overlap_ms)}, or shorten rotation.overlap",
        )
    fields.finish()
    return spec


def _revoked(fields: Fields) -> tuple[RevokedSpec, ...]:
    entries: list[RevokedSpec] = []
    for item in fields.sections("revoked", limit=256):
        key_id = item.text("keyId", required=True, limit=64)
        if key_id:
            try:
                check_key_id(key_id, field=item.at("keyId"))
            except InvalidField as error:
                item.violations.append(error)
        if key_id in [entry.key_id for entry in entries]:
            item.violate("keyId", "is revoked twice", value=key_id, remedy="name each key once")
        entries.append(
            RevokedSpec(
                key_id=key_id, reason=item.text("reason", "unspecified", limit=256), at=item.text("at", limit=64)
            )
        )
        item.finish()
    return tuple(entries)


def _secret(fields: Fields, name: str, default_key: str) -> SecretReference | None:
    given = fields.has(name)
    reference = fields.section(name)
    if not given:
        return None
    secret = SecretReference(
        name=reference.text("name", required=True, limit=253),
        key=reference.text("key", default_key, limit=253),
    )
    reference.finish()
    return secret

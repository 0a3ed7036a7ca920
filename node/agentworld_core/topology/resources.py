"""The three kinds of manifests that both homes read: World, Validator and MembershipKey.

``parse_manifest`` applies all defaults and repeats all rules that the API server checks, so that a manifest means the
same on one machine, and on a cluster whose schema is older than the operator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from agentworld_core.errors import InvalidField
from agentworld_core.topology.fields import Fields, InvalidManifest
from agentworld_core.topology.member_specs import (
    MembershipKeySpec,
    ValidatorSpec,
    parse_key_spec,
    parse_validator_spec,
)
from agentworld_core.topology.world_spec import WorldSpec, parse_world_spec

GROUP = "agentworld.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KINDS = ("World", "Validator", "MembershipKey")
MAX_WORLD_NAME = 52
"""Names made from a World's name, such as ``<world>-governance``, must themselves be ids of at most 63 characters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metadata:
    """Who a manifest is; ``uid`` and the rest are known only when it comes from an API server."""

    name: str
    namespace: str = "default"
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    uid: str = ""
    generation: int = 0
    deleting: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """A World with its parsed spec."""

    metadata: Metadata
    spec: WorldSpec

    @property
    def name(self) -> str:
        """The name of the resource."""
        return self.metadata.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validator:
    """A Validator with its parsed spec."""

    metadata: Metadata
    spec: ValidatorSpec

    @property
    def name(self) -> str:
        """The name of the resource."""
        return self.metadata.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembershipKey:
    """A MembershipKey with its parsed spec."""

    metadata: Metadata
    spec: MembershipKeySpec

    @property
    def name(self) -> str:
        """The name of the resource."""
        return self.metadata.name


Resource = World | Validator | MembershipKey


def parse_manifest(manifest: object) -> Resource:
    """Returns the typed resource of a manifest, or raises InvalidManifest that lists everything wrong with it."""
    violations: list[InvalidField] = []
    fields = Fields(manifest, "", violations)
    api_version = fields.text("apiVersion", required=True)
    if api_version and api_version != API_VERSION:
        fields.violate("apiVersion", "is not ours", value=api_version, remedy=f"use {API_VERSION}")
    kind = fields.choice("kind", KINDS, "")
    metadata = _metadata(fields.section("metadata"), kind)
    fields.raw("status")
    spec = Fields(fields.raw("spec"), "spec", violations)
    fields.finish()
    resource = _resource(kind, metadata, spec)
    if violations or resource is None:
        raise InvalidManifest(f"{kind or 'manifest'} {metadata.name or '(no name)'}", violations)
    return resource


def _resource(kind: str, metadata: Metadata, spec: Fields) -> Resource | None:
    if kind == "World":
        return World(metadata=metadata, spec=parse_world_spec(spec, metadata.name))
    if kind == "Validator":
        return Validator(metadata=metadata, spec=parse_validator_spec(spec, metadata.name))
    if kind == "MembershipKey":
        return MembershipKey(metadata=metadata, spec=parse_key_spec(spec))
    return None


def _metadata(fields: Fields, kind: str) -> Metadata:
    # What an API server adds (managedFields, ownerReferences, ...) is none of our business, so unknown fields stand.
    name = fields.identifier("name", required=True)
    if kind == "World" and name and not (len(name) <= MAX_WORLD_NAME and name[0].isalpha()):
        remedy = (
            f"begin with a letter and use at most {MAX_WORLD_NAME} characters: Services and keys are named after it"
        )
        fields.violate("name", "is not a name for a World", value=name, remedy=remedy)
    generation = fields.raw("generation")
    return Metadata(
        name=name,
        namespace=fields.text("namespace", "default", limit=63),
        labels=fields.labels("labels"),
        annotations=fields.labels("annotations"),
        uid=fields.text("uid", limit=128),
        generation=generation if type(generation) is int else 0,
        deleting=fields.has("deletionTimestamp"),
    )

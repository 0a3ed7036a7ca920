"""The Validators and MembershipKeys that follow from a World, with exactly the fields that are the World's.

What a person may edit on them (``suspend``, ``drain``, ``generation``, ``revoked``, ``rotation``) is left out, so that
applying them again never takes such an edit back.
"""

from __future__ import annotations

from typing import Any

from agentworld_core.topology.plan import IMPLIED_LABEL
from agentworld_core.topology.resources import API_VERSION, MembershipKey, Metadata, Validator
from agentworld_operator.resources.objects import Object, metadata


def implied_manifest(world: Metadata, resource: Validator | MembershipKey) -> Object:
    """Returns the manifest of an implied resource, owned by the World."""
    if isinstance(resource, Validator):
        kind, component = "Validator", "validator"
        spec: dict[str, Any] = {"world": world.name, **resource.spec.template.to_manifest()}
        validator = resource.name
    else:
        kind, component = "MembershipKey", "membership-key"
        spec = {"world": world.name, "purpose": resource.spec.purpose}
        validator = resource.spec.validator
        if validator:
            spec["validator"] = validator
    meta = metadata(world, resource.name, component=component, validator=validator)
    meta["labels"][IMPLIED_LABEL] = "true"
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec}

"""Manifests for tests, as short as the rules allow."""

from typing import Any

from agentworld_core.topology.resources import MembershipKey, Validator, World, parse_manifest


def manifest(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Returns a manifest of ours."""
    return {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", **metadata},
        "spec": spec,
    }


def world(name: str = "aurora", /, **spec: Any) -> World:
    """Returns a parsed World."""
    parsed = parse_manifest(manifest("World", name, spec))
    assert isinstance(parsed, World)
    return parsed


def validator(name: str, /, metadata: dict[str, Any] | None = None, **spec: Any) -> Validator:
    """Returns a parsed Validator of the world aurora."""
    parsed = parse_manifest(manifest("Validator", name, {"world": "aurora", **spec}, **(metadata or {})))
    assert isinstance(parsed, Validator)
    return parsed


def key(name: str, /, metadata: dict[str, Any] | None = None, **spec: Any) -> MembershipKey:
    """Returns a parsed MembershipKey of the world aurora."""
    parsed = parse_manifest(manifest("MembershipKey", name, {"world": "aurora", **spec}, **(metadata or {})))
    assert isinstance(parsed, MembershipKey)
    return parsed

"""Manifests, good and bad, and what is said about the bad ones; judged by the stand-in and by a real API server."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

KEY_A = "0123456789abcdef0123456789abcdef"
KEY_B = "fedcba9876543210fedcba9876543210"
HASH = "ab" * 32


@dataclass(frozen=True)
class Case:
    """A manifest that is created, or written over another; `says` is part of the refusal, empty when it is taken."""

    name: str
    manifest: dict[str, Any]
    says: str = ""
    before: dict[str, Any] | None = None


def nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


def resource(kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None = None) -> dict[str, Any]:
    made = {"apiVersion": "agentworld.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return made if status is None else {**made, "status": status}


def world(path: str = "validators.replicas", value: Any = 4, *, name: str = "aurora", **others: Any) -> dict[str, Any]:
    return resource("World", name, merged(nested(path, value), others))


def validator(*, name: str = "aurora-0", **spec: Any) -> dict[str, Any]:
    return resource("Validator", name, {"world": "aurora", **spec})


def key(*, name: str = "aurora-0", status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return resource("MembershipKey", name, {"world": "aurora", "validator": "aurora-0", **spec}, status)


def governance(**spec: Any) -> dict[str, Any]:
    return resource("MembershipKey", "root", {"world": "aurora", "purpose": "Governance", **spec})


def sinks(*items: Any) -> dict[str, Any]:
    return world("revocation.delivery.sinks", list(items))


def condition(name: str, status: str) -> dict[str, Any]:
    time = "2026-01-01T00:00:00Z"
    return {"type": name, "status": status, "reason": "Test", "message": "", "lastTransitionTime": time}


def begun(spec: dict[str, Any], **status: Any) -> dict[str, Any]:
    return resource("World", "aurora", spec, status)


SEQUENCER = {"leaseDuration": "15s", "renewDeadline": "10s", "retryPeriod": "2s"}
HAS_KEY = {"keys": [{"keyId": KEY_A, "generation": 1, "state": "Active"}]}
REVOKED = [{"keyId": KEY_A, "reason": "lost"}, {"keyId": KEY_B}]
MODULE = {"moduleId": "market", "version": "1.0.0"}

WORLDS_TAKEN = [
    Case("six lines", world()),
    Case("empty spec", resource("World", "w", {})),
    Case("no validators of its own", world("validators.replicas", 0)),
    Case("longest name", world(name="a" * 52)),
    Case("world id begins with a digit", world("worldId", "2026-sim")),
    Case("all kinds of durations", world("sequencer", {**SEQUENCER, "retryPeriod": "1.5s", "leaseDuration": "1m30s"})),
    Case("milliseconds", world("consensus.blockInterval", "500ms")),
    Case("lease at the edge", world("sequencer", {"leaseDuration": "10.001s", "renewDeadline": "10s"})),
    Case("deadline at the edge", world("sequencer", {"renewDeadline": "2401ms", "retryPeriod": "2s"})),
    Case("alerts never suppressed", world("revocation.alerts.suppressWindow", "0s")),
    Case("every sink", sinks({"log": {}}, {"event": {}}, {"webhook": {"url": "https://a.example/x?y=1"}})),
    Case("sink with a secret", sinks({"alertmanager": {"url": "http://am:9093", "secretRef": {"name": "token"}}})),
    Case("two of three govern", world("governance", {"keys": ["a", "b", "c"], "threshold": 2})),
    Case("module from a ConfigMap", world("genesis.modules", [
        {**MODULE, "artifact": {"configMapKeyRef": {"name": "modules", "key": "market.wasm"}}}])),
    Case("kernel parameters", world("genesis.parameters", {"maxObjects": 1000, "motto": "festina lente"})),
    Case("object store", world("storage.objectStore", {"bucket": "worlds", "endpoint": "http://minio:9000"})),
    Case("image by digest", world("image", {"repository": "r.example/n", "digest": "sha256:" + "0" * 64})),
    Case("replicas change", world("validators.replicas", 7), before=world()),
    Case("volume grows", world("validators.template.storage.size", "20Gi"),
         before=world("validators.template.storage.size", "10000Mi")),
    Case("genesis is edited before the start", begun(nested("genesis.parameters", {"a": 2})),
         before=begun(nested("genesis.parameters", {"a": 1}), conditions=[condition("Initialized", "False")])),
    Case("others change after the start", begun(nested("paused", True)),
         before=begun({}, conditions=[condition("Initialized", "True")], genesisHash=HASH)),
    Case("world id is written out", world("worldId", "aurora"), before=world()),
]  # fmt: skip

WORLDS_REFUSED = [
    Case("name begins with a digit", world(name="2026"), "begins with a letter"),
    Case("name is too long", world(name="a" * 53), "1 to 52"),
    Case("name has a dot", world(name="a.b"), "1 to 52 lower-case letters"),
    Case("world id has capitals", world("worldId", "Aurora"), "spec.worldId"),
    Case("world id changes", world("worldId", "b"), "worldId cannot be changed", before=world("worldId", "a")),
    Case("world id appears", world("worldId", "b"), "worldId cannot be changed", before=world()),
    Case("world id goes away", world(), "worldId cannot be changed", before=world("worldId", "b")),
    Case("negative replicas", world("validators.replicas", -1), "spec.validators.replicas"),
    Case("too many replicas", world("validators.replicas", 101), "spec.validators.replicas"),
    Case("replicas as text", world("validators.replicas", "4"), "spec.validators.replicas"),
    Case("unknown fault model", world("consensus.faultModel", "Magic"), "spec.consensus.faultModel"),
    Case("more actions than a batch", world("consensus.maxActions", 4097), "spec.consensus.maxActions"),
    Case("duration without a unit", world("consensus.blockInterval", "15"), "spec.consensus.blockInterval"),
    Case("duration in days", world("network.republishInterval", "1d"), "spec.network.republishInterval"),
    Case("duration out of order", world("network.republishInterval", "30s1m"), "spec.network.republishInterval"),
    Case("negative duration", world("network.republishInterval", "-5m"), "spec.network.republishInterval"),
    Case("empty duration", world("network.republishInterval", ""), "spec.network.republishInterval"),
    Case("duration too short", world("consensus.blockInterval", "1ms"), "must lie between 10ms and 1h"),
    Case("duration too long", world("replay.interval", "25h"), "must lie between 1s and 24h"),
    Case("one actor fills the mempool", world("mempool", {"maxActions": 10, "maxPerActor": 11}), "must not exceed"),
    Case("lease as long as the deadline", world("sequencer", {**SEQUENCER, "renewDeadline": "15s"}),
         "leaseDuration must be longer than renewDeadline"),
    Case("lease shorter than the default deadline", world("sequencer", {"leaseDuration": "9s"}),
         "leaseDuration must be longer than renewDeadline"),
    Case("deadline exactly 1.2 tries", world("sequencer", {"renewDeadline": "2400ms", "retryPeriod": "2s"}),
         "renewDeadline must be longer than 1.2 times retryPeriod"),
    Case("gossip on the HTTP port", world("network.port", 8080), "port of the node's HTTP server"),
    Case("privileged port", world("network.port", 80), "spec.network.port"),
    Case("backoff over its maximum", world("revocation.delivery", {"backoff": "10m", "maxBackoff": "5m"}),
         "backoff must not be longer than maxBackoff"),
    Case("sink of no kind", sinks({}), "exactly one of log, event, webhook or alertmanager"),
    Case("sink of an unknown kind", sinks({"pager": {}}), "exactly one of log, event, webhook or alertmanager"),
    Case("sink of two kinds", sinks({"log": {}, "event": {}}), "exactly one of log, event, webhook or alertmanager"),
    Case("webhook without an address", sinks({"webhook": {}}), "spec.revocation.delivery.sinks[0].webhook.url"),
    Case("webhook to a file", sinks({"webhook": {"url": "file:///etc/passwd"}}), "must be an http or https URL"),
    Case("password in an address", sinks({"webhook": {"url": "https://me:pw@a.example"}}), "without credentials"),
    Case("password in an endpoint", world("storage.objectStore", {"bucket": "abc", "endpoint": "http://a:b@c"}),
         "without credentials"),
    Case("threshold over the keys", world("governance", {"keys": ["a"], "threshold": 2}), "threshold exceeds"),
    Case("threshold over the one made", world("governance.threshold", 2), "threshold exceeds"),
    Case("governance key twice", world("governance.keys", ["a", "a"]), "spec.governance.keys"),
    Case("module from nowhere", world("genesis.modules", [{**MODULE, "artifact": {}}]), "exactly one source"),
    Case("state from two places", world("genesis.state", {
        "blob": HASH, "configMapKeyRef": {"name": "a", "key": "b"}}), "exactly one source"),
    Case("module twice", world("genesis.modules", [{**MODULE, "artifact": {"blob": HASH}}] * 2), "genesis.modules"),
    Case("fraction as a parameter", world("genesis.parameters", {"g": 9.81}), "spec.genesis.parameters"),
    Case("genesis changes after the start", begun(nested("genesis.parameters", {"a": 2})), "genesis cannot be changed",
         before=begun(nested("genesis.parameters", {"a": 1}), conditions=[condition("Initialized", "True")])),
    Case("genesis goes away after the start", begun({}), "genesis cannot be changed",
         before=begun(nested("genesis.parameters", {"a": 1}), genesisHash=HASH)),
    Case("genesis appears after the start", begun(nested("genesis.parameters", {"a": 2})), "genesis cannot be changed",
         before=begun({}, genesisHash=HASH)),
    Case("volume shrinks", world("validators.template.storage.size", "1Gi"), "a volume cannot shrink", before=world()),
    Case("size is not a size", world("validators.template.storage.size", "big"), "storage.size"),
    Case("storage class appears", world("validators.template.storage.storageClassName", "fast"),
         "storage class of a volume cannot be changed", before=world()),
    Case("our own label", world("validators.template.podLabels", {"agentworld.dev/world": "x"}), "set by the operator"),
    Case("our own annotation", world("validators.template.podAnnotations", {"agentworld.dev/x": ""}), "set by the op"),
    Case("unknown deletion policy", world("deletionPolicy", "Orphan"), "spec.deletionPolicy"),
    Case("digest of another kind", world("image.digest", "md5:0"), "spec.image.digest"),
]  # fmt: skip

VALIDATORS = [
    Case("smallest validator", validator()),
    Case("validator as an archive", validator(name="9-lives", weight=10, roles=["validator", "observer"])),
    Case("own identity", validator(identity={"secretRef": {"name": "mine"}})),
    Case("validator changes weight", validator(weight=2), before=validator()),
    Case("no world", resource("Validator", "v", {}), "spec.world"),
    Case("validator moves", validator(world="other"), "cannot move to another World", before=validator()),
    Case("validator id changes", validator(validatorId="v2"), "validatorId cannot be changed", before=validator()),
    Case("no weight", validator(weight=0), "spec.weight"),
    Case("unknown role", validator(roles=["validator", "king"]), "spec.roles"),
    Case("without a vote", validator(roles=["storage"]), "has the role validator"),
    Case("role twice", validator(roles=["validator", "validator"]), "spec.roles"),
    Case("validator with a dot", validator(name="a.b"), "the name of a Validator"),
    Case("volume of a validator shrinks", validator(storage={"size": "9Gi"}), "cannot shrink", before=validator()),
    Case("request is not an amount", validator(resources={"requests": {"cpu": "lots"}}), "spec.resources.requests"),
]

KEYS = [
    Case("smallest key", key()),
    Case("governance key", governance()),
    Case("first seen at generation 3", key(generation=3)),
    Case("rotation by the clock", key(rotation={"interval": "48h", "overlap": "24h"})),
    Case("rotation by hand", key(generation=2), before=key()),
    Case("own key", key(secretRef={"name": "mine"})),
    Case("own keys, one after the other", key(generation=2, secretRef={"name": "second"}),
         before=key(secretRef={"name": "first"})),
    Case("own key is corrected before it is used", key(secretRef={"name": "right"}),
         before=key(secretRef={"name": "wrong"}, status={"failures": 1})),
    Case("revoked with a reason", key(revoked=REVOKED)),
    Case("one more is revoked", key(revoked=REVOKED), before=key(revoked=REVOKED[:1])),
    Case("order of revocations changes", key(revoked=REVOKED[::-1]), before=key(revoked=REVOKED)),
    Case("validator's key of nobody", resource("MembershipKey", "k", {"world": "aurora"}), "needs the name of its"),
    Case("governance key of a validator", governance(validator="aurora-0"), "belongs to no validator"),
    Case("purpose changes", governance(), "purpose of a key cannot be changed",
         before=resource("MembershipKey", "root", {"world": "aurora", "validator": "a"})),
    Case("key changes hands", key(validator="aurora-1"), "cannot be handed to another", before=key()),
    Case("key moves", key(world="other"), "cannot move to another World", before=key()),
    Case("key with a dot", key(name="a.b"), "the name of a MembershipKey"),
    Case("unknown algorithm", key(algorithm="RSA"), "spec.algorithm"),
    Case("generation 0", key(generation=0), "spec.generation"),
    Case("generation goes back", key(generation=1), "generation never goes back", before=key(generation=2)),
    Case("generation jumps", key(generation=3), "generation grows by one at a time", before=key()),
    Case("interval below twice the overlap", key(rotation={"interval": "47h59m59s"}), "at least twice overlap"),
    Case("new generation of the same own key", key(generation=2, secretRef={"name": "first"}), "needs a new key",
         before=key(secretRef={"name": "first"})),
    Case("own key is swapped", key(secretRef={"name": "second"}), "key of this generation exists already",
         before=key(secretRef={"name": "first"}, status=HAS_KEY)),
    Case("own key is pulled away", key(), "key of this generation exists already",
         before=key(secretRef={"name": "first"}, status=HAS_KEY)),
    Case("own key comes late", key(secretRef={"name": "first"}), "key of this generation exists already",
         before=key(status=HAS_KEY)),
    Case("own key for the next generation", key(generation=2, secretRef={"name": "first"}), before=key(status=HAS_KEY)),
    Case("revocation is taken back", key(revoked=REVOKED[1:]), "cannot be removed", before=key(revoked=REVOKED)),
    Case("all revocations are taken back", key(), "cannot be removed", before=key(revoked=REVOKED)),
    Case("revocation is replaced", key(revoked=REVOKED[1:]), "cannot be removed", before=key(revoked=REVOKED[:1])),
    Case("revocation is rewritten", key(revoked=[{"keyId": KEY_A, "reason": "found"}]), "cannot be changed",
         before=key(revoked=REVOKED[:1])),
    Case("revoked twice", key(revoked=[REVOKED[0], REVOKED[0]]), "spec.revoked"),
    Case("revoked by a prefix", key(revoked=[{"keyId": KEY_A[:8]}]), "spec.revoked[0].keyId"),
    Case("revoked for no reason", key(revoked=[{"keyId": KEY_A, "reason": ""}]), "spec.revoked[0].reason"),
    Case("revoked yesterday", key(revoked=[{"keyId": KEY_A, "at": "yesterday"}]), "spec.revoked[0].at"),
]  # fmt: skip

CASES = [*WORLDS_TAKEN, *WORLDS_REFUSED, *VALIDATORS, *KEYS]

# The largest things the schema allows, against the CEL cost budget at run time and the size of stored objects.
LARGEST = [
    Case("most revocations at once", key(revoked=[{"keyId": f"{n:032x}", "reason": "r" * 256} for n in range(256)]),
         before=key(revoked=[{"keyId": f"{n:032x}", "reason": "r" * 256} for n in range(255)])),
    Case("largest genesis", begun(nested("genesis.parameters", {f"p{n}": "x" * 256 for n in range(64)}), ),
         before=begun(nested("genesis.parameters", {f"p{n}": "x" * 256 for n in range(64)}), genesisHash=HASH)),
]  # fmt: skip

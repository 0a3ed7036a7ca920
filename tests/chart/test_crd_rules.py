"""What the custom resources take and refuse, by their schemas and CEL rules."""

from __future__ import annotations

import pytest

from tests.chart.cases import CASES, LARGEST, Case
from tests.chart.crd import FILES, nodes, refusals, schema, stored


@pytest.mark.parametrize("case", [*CASES, *LARGEST], ids=lambda case: case.name)
def test_a_manifest_is_taken_or_refused_with_a_sentence(case: Case) -> None:
    found = refusals(case.manifest, before=case.before)
    if case.says:
        assert any(case.says in refusal for refusal in found), found
    else:
        assert found == []


@pytest.mark.parametrize("case", [case for case in CASES if case.before], ids=lambda case: case.name)
def test_what_an_update_starts_from_is_itself_taken(case: Case) -> None:
    assert case.before is not None
    assert refusals(case.before) == []


def test_every_rule_is_broken_by_a_case() -> None:
    messages = {
        rule["message"]
        for kind in FILES
        for _, node in nodes(schema(kind))
        for rule in node.get("x-kubernetes-validations", [])
    }
    said = {
        refusal.partition(": ")[2]
        for case in CASES
        if case.says
        for refusal in refusals(case.manifest, before=case.before)
    }
    # Bounds of durations are one rule at many fields.
    unbroken = {message for message in messages - said if not message.startswith("must lie between")}
    # There is no second algorithm to change to yet.
    assert unbroken == {"the algorithm of a key cannot be changed: make another MembershipKey instead"}


def test_the_six_line_world_gets_the_documented_defaults() -> None:
    spec = stored(CASES[0].manifest)["spec"]
    assert spec["validators"]["replicas"] == 4
    assert spec["consensus"] == {
        "faultModel": "Byzantine", "blockInterval": "1s", "maxActions": 512, "maxPayloadBytes": 524288,
    }  # fmt: skip
    assert spec["mempool"] == {"maxActions": 10000, "maxPerActor": 256, "expiry": "10m"}
    assert spec["sequencer"] == {"leaseDuration": "15s", "renewDeadline": "10s", "retryPeriod": "2s"}
    assert spec["storage"] == {
        "snapshotChunkBytes": 262144, "journalEventsPerSegment": 256, "snapshotInterval": 64, "retainSnapshots": 10,
    }  # fmt: skip
    assert spec["gateway"] == {"replicas": 1, "service": {"type": "ClusterIP", "port": 8080}}
    assert spec["observers"] == {"replicas": 0}
    assert spec["network"] == {"port": 4001, "republishInterval": "5m", "networkPolicy": True}
    assert spec["revocation"] == {
        "checkpointInterval": "30s", "reconcileInterval": "60s", "autoRevokeMissingKeys": True,
        "alerts": {"warnDiverged": 1, "criticalRejected": 1, "suppressWindow": "60s"},
        "delivery": {"maxPending": 256, "maxAttempts": 5, "backoff": "5s", "maxBackoff": "5m"},
    }  # fmt: skip
    assert spec["replay"] == {"interval": "60s", "maxPerRun": 64, "maxRetryLimitExceededStreak": 3, "suspend": False}
    assert spec["governance"] == {"threshold": 1}
    assert (spec["paused"], spec["hibernated"], spec["deletionPolicy"]) == (False, False, "Retain")


def test_the_other_kinds_get_the_documented_defaults() -> None:
    specs = {case.name: stored(case.manifest)["spec"] for case in CASES}
    assert specs["smallest validator"]["weight"] == 1
    assert specs["smallest validator"]["roles"] == ["validator", "storage"]
    assert specs["smallest key"] == {
        "world": "aurora", "validator": "aurora-0", "purpose": "Validator", "algorithm": "Ed25519", "generation": 1,
        "rotation": {"overlap": "24h", "suspend": False}, "revoked": [],
    }  # fmt: skip


def test_unknown_fields_are_pruned() -> None:
    manifest = {**CASES[0].manifest, "spec": {"validators": {"replicas": 4, "colour": "red"}, "extra": {"a": 1}}}
    assert refusals(manifest) == []
    assert stored(manifest) == stored(CASES[0].manifest)

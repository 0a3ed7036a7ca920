"""Members that people make themselves, and the keys of governance, on a running world."""

from __future__ import annotations

import asyncio

import pytest

from tests.e2e.kube import RunningWorld
from tests.e2e.test_keys import active, rotate
from tests.e2e.test_world import act, verify


def test_a_governance_key_is_rotated_and_its_successor_governs(aurora: RunningWorld) -> None:
    name = "aurora-governance"
    old, generation = rotate(aurora, name)

    def rotated() -> bool:
        rows = {row["generation"]: row["state"] for row in aurora.namespace.status("awk", name).get("keys", [])}
        return rows.get(generation) == "Active" and active(aurora, name) != old

    aurora.wait("the new governance key is active", rotated, seconds=180)
    before = active(aurora, "aurora-3")
    rotate(aurora, "aurora-3")
    aurora.wait("a directory that it signed", lambda: active(aurora, "aurora-3") not in ("", before), seconds=180)
    with aurora.gateway() as url:
        asyncio.run(act(url))
        asyncio.run(verify(url))


@pytest.mark.box("S27.1", "remove")
def test_a_hand_made_validator_joins_and_leaves_the_directory_before_its_pod_goes(aurora: RunningWorld) -> None:
    namespace = aurora.namespace
    hand = {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": "Validator",
        "metadata": {"name": "hand"},
        "spec": {"world": "aurora"},
    }
    namespace.apply(hand)
    aurora.wait("it votes", lambda: namespace.status("awv", "hand").get("phase") == "Voting", seconds=240)
    epoch = aurora.status["directory"]["epoch"]
    namespace.kubectl("delete", "awv", "hand", "--timeout=180s")
    aurora.wait("its pod is gone", lambda: "hand" not in aurora.validators(), seconds=120)
    assert aurora.status["directory"]["epoch"] > epoch
    assert {"ValidatorJoined", "ValidatorLeft"} <= set(namespace.reasons())
    aurora.wait_ready()
    with aurora.gateway() as url:
        asyncio.run(act(url))

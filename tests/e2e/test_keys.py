"""Rotation and revocation on a running world: nothing lost, no pod restarted, finished whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.kube import Namespace, RunningWorld, wait_until, world
from tests.e2e.test_world import act, verify
from tests.e2e.traffic import Traffic, assert_each_once

KEY = "aurora-1"
CONFIRM_SECONDS = 30
"""Idle machines need under 5 s, which is printed; the deadline allows for busy ones."""


def rotate(aurora: RunningWorld, key: str = KEY) -> tuple[str, int]:
    """Asks for the next generation of a key; returns the key id that signs now and the wanted generation."""
    found = aurora.namespace.get("awk", key)
    generation = found["spec"].get("generation", 1) + 1
    aurora.namespace.patch("awk", key, {"generation": generation})
    return found["status"]["activeKeyId"], generation


def active(aurora: RunningWorld, key: str = KEY) -> str:
    """Returns the id of the key that signs, by the status of the resource."""
    return str(aurora.namespace.status("awk", key).get("activeKeyId") or "")


def test_a_rotation_loses_nothing_and_restarts_nothing(aurora: RunningWorld) -> None:
    pods = aurora.pod_identities()
    epoch = aurora.status["directory"]["epoch"]
    with aurora.gateway() as url, Traffic(url) as traffic:
        old, generation = rotate(aurora)
        aurora.wait("a new key is active", lambda: active(aurora) not in ("", old), seconds=180)
        aurora.wait(
            "the node signs with it",
            lambda: aurora.node(KEY).get("signing", {}).get("active_key_id") == active(aurora),
            seconds=120,
        )
        seen = len(traffic.committed)
        aurora.wait("actions go on", lambda: len(traffic.committed) > seen, seconds=60)
    assert aurora.status["directory"]["epoch"] > epoch
    assert aurora.pod_identities() == pods
    states = {row["generation"]: row["state"] for row in aurora.namespace.status("awk", KEY)["keys"]}
    assert states[generation] == "Active"
    assert states[generation - 1] == "Retiring"
    assert "KeyRotated" in aurora.namespace.reasons()
    with aurora.gateway() as url:
        assert_each_once(url, traffic.committed)
        asyncio.run(verify(url))


def test_a_revoked_key_is_refused_by_all_nodes_within_seconds(
    aurora: RunningWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "aurora-2"
    victim = active(aurora, key)
    revoked = aurora.namespace.get("awk", key)["spec"].get("revoked", [])
    started = time.monotonic()
    aurora.namespace.patch("awk", key, {"revoked": [*revoked, {"keyId": victim, "reason": "stolen"}]})

    def confirmed() -> bool:
        nodes = aurora.nodes()
        return bool(nodes) and all(victim in node.get("revocations", {}).get("key_ids", []) for node in nodes.values())

    aurora.wait("all nodes refuse it", confirmed, seconds=CONFIRM_SECONDS)
    took = time.monotonic() - started
    with capsys.disabled():
        print(f" revocation confirmed by all nodes after {took:.1f} s ")
    aurora.wait("the key is replaced", lambda: active(aurora, key) not in ("", victim), seconds=180)
    aurora.wait("it votes again", lambda: aurora.node(key).get("signing", {}).get("voting"), seconds=120)

    def converged() -> bool:
        rows = {row["keyId"]: row for row in aurora.status.get("revocations", [])}
        return victim in rows and not rows[victim].get("pendingNodes")

    aurora.wait("the status says so", converged, seconds=60)
    assert {"KeyRevoked", "RevocationConverged"} <= set(aurora.namespace.reasons())
    assert aurora.node(key)["signing"]["active_key_id"] != victim
    with aurora.gateway() as url:
        asyncio.run(act(url))
        asyncio.run(verify(url))


def secret_exists(aurora: RunningWorld, generation: int) -> bool:
    return any(item["metadata"]["name"] == f"{KEY}-g{generation}" for item in aurora.namespace.find("secrets"))


def state_of(aurora: RunningWorld, generation: int) -> str:
    rows = {row["generation"]: row["state"] for row in aurora.namespace.status("awk", KEY).get("keys", [])}
    return str(rows.get(generation, ""))


STEPS: dict[str, Callable[[RunningWorld, int], Any]] = {
    "asked": lambda aurora, _generation: True,
    "key made": secret_exists,
    "directory submitted": lambda aurora, generation: state_of(aurora, generation) in ("Pending", "Trusted", "Active"),
    "trusted": lambda aurora, generation: state_of(aurora, generation) in ("Trusted", "Active"),
    "active": lambda aurora, generation: state_of(aurora, generation) == "Active",
}


@pytest.mark.parametrize("step", STEPS)
def test_an_operator_killed_at_any_step_finishes_the_rotation(aurora: RunningWorld, step: str) -> None:
    old, generation = rotate(aurora)
    wait_until(step, lambda: bool(STEPS[step](aurora, generation)), seconds=120, explain=aurora.namespace.explain)
    aurora.namespace.cluster.kill_operator()
    aurora.wait("the rotation ends", lambda: state_of(aurora, generation) == "Active", seconds=240)
    aurora.wait(
        "the node signs with the new key",
        lambda: aurora.node(KEY).get("signing", {}).get("active_key_id") == active(aurora) != old,
        seconds=120,
    )
    with aurora.gateway() as url:
        asyncio.run(act(url))


def test_a_broken_key_of_ones_own_is_named_and_changes_nothing(namespace: Namespace) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "mine"},
        "stringData": {"private.pem": "this is no key"},
    }
    key = {
        "apiVersion": "agentworld.dev/v1alpha1",
        "kind": "MembershipKey",
        "metadata": {"name": "own"},
        "spec": {"world": "careful", "purpose": "Validator", "validator": "careful-0", "secretRef": {"name": "mine"}},
    }
    namespace.apply(secret, key, world("careful", validators={"replicas": 1}))
    wait_until(
        "a condition that names the Secret",
        lambda: "mine" in namespace.condition("awk", "own", "Ready").get("message", ""),
        seconds=60,
        explain=namespace.explain,
    )
    assert namespace.condition("awk", "own", "Ready")["status"] == "False"

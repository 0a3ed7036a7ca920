"""Conditions keep their times, statuses are patched where they differ, and nodes are read with care."""

from typing import Any

import pytest

from agentworld_core.consensus.verdict import Verdict
from agentworld_operator.nodes.status import NodeStatus, parse_status
from agentworld_operator.plan.running import pod_facts
from agentworld_operator.resources.status import (
    Condition,
    listing,
    merge_patch,
    merged_conditions,
    milliseconds_of,
    timestamp,
)

READY = Condition(type="Ready", status="True", reason="AsExpected", message="fine")


def stored(**changes: Any) -> dict[str, dict[str, Any]]:
    row = {"type": "Ready", "status": "True", "reason": "Old", "message": "", "lastTransitionTime": "then"}
    return {"Ready": row | changes}


def test_the_transition_time_moves_only_with_the_status() -> None:
    (kept,) = merged_conditions(stored(), [READY], generation=3, now_ms=0)
    assert (kept["lastTransitionTime"], kept["reason"], kept["observedGeneration"]) == ("then", "AsExpected", 3)
    (moved,) = merged_conditions(stored(status="False"), [READY], generation=3, now_ms=0)
    assert moved["lastTransitionTime"] == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": None}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1}}, {"a": {"y": None}}),
        ({"a": {"x": 1}}, {"a": {"x": 1, "z": {"q": 1}}}, {"a": {"z": {"q": 1}}}),
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 2]}),
        ({"a": {"x": 1}}, {"a": 5}, {"a": 5}),
    ],
)
def test_a_patch_holds_only_what_differs(before: dict[str, Any], after: dict[str, Any], patch: dict[str, Any]) -> None:
    assert merge_patch(before, after) == patch


@pytest.mark.parametrize("text", ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05.000000Z"])
def test_times_read_back(text: str) -> None:
    assert timestamp(milliseconds_of(text)) == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("text", ["", None, "yesterday", 7])
def test_what_is_no_time_is_zero(text: object) -> None:
    assert milliseconds_of(text) == 0


def test_long_lists_are_cut_in_messages() -> None:
    assert listing(["a", "b"]) == "a, b"
    assert listing(list("abcdefg"), limit=3) == "a, b, c and 4 more"


def test_a_full_status_is_read() -> None:
    status = parse_status(
        {
            "node_id": "aurora-0",
            "peer_id": "12D3",
            "genesis_hash": "a" * 64,
            "head": {
                "height": 7,
                "block_hash": "b" * 64,
                "state_root": "c" * 64,
                "time_ms": 9,
                "term": 2,
                "signers": 3,
            },
            "directory": {"epoch": 4, "hash": "d" * 64, "effective_height": 5},
            "pending_directory": {"epoch": 5, "hash": "e" * 64, "effective_height": 9},
            "revocations": {"set_hash": "f" * 64, "key_ids": ["0" * 32]},
            "signing": {"active_key_id": "1" * 32, "available_key_ids": ["1" * 32, "0" * 32], "voting": True},
            "writer": {"holder": "aurora-1", "term": 2},
            "sync": {"state": "in_sync", "lag": 1},
            "evidence": [{"hash": "9" * 64}, {"hash": "x"}, {"first": {}}],
            "consensus": {"state": "Prevotes", "message": "waits", "stalled": True},
        }
    )
    assert (status.head.height, status.head.signers, status.directory.epoch) == (7, 3, 4)
    assert status.pending is not None
    assert status.available_key_ids == ("0" * 32, "1" * 32)
    assert status.evidence == ("9" * 64,)
    assert status.progress == Verdict(state="Prevotes", message="waits", stalled=True)
    assert (status.writer, status.voting, status.in_sync, status.lag) == ("aurora-1", True, True, 1)


@pytest.mark.parametrize(
    "junk",
    [
        None,
        [],
        "status",
        7,
        {},
        {"head": 5},
        {"head": {"height": -1, "block_hash": "x"}},
        {"signing": {"voting": 1}},
        {"head": {"height": 2**70}},
        {"revocations": {"key_ids": ["zz", 3, None]}},
        {"evidence": ["x", 1]},
        {"writer": {"holder": None, "term": True}},
        {"pending_directory": []},
        {"consensus": {"state": "no word", "message": "m", "stalled": True}},
        {"consensus": ["Idle"]},
    ],
)
def test_whatever_a_node_says_becomes_an_empty_status_not_a_crash(junk: object) -> None:
    assert parse_status(junk) == NodeStatus(node_id="")


def test_only_a_stall_is_worth_a_reconcile() -> None:
    busy, idle, stuck = (
        parse_status({"consensus": {"state": state, "message": "m", "stalled": stalled}})
        for state, stalled in (("Prevotes", False), ("Idle", False), ("Prevotes", True))
    )
    assert busy.fingerprint() == idle.fingerprint()
    assert stuck.fingerprint() != busy.fingerprint()


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"])
def test_a_failed_pull_is_one_condition_whatever_the_kubelet_says_today(reason: str) -> None:
    waiting = [{"image": "i:1", "state": {"waiting": {"reason": reason, "message": "back-off 20s"}}}]
    one = pod_facts("p", pod(containerStatuses=waiting))
    waiting[0]["state"] = {"waiting": {"reason": "ErrImagePull", "message": "no such host"}}
    other = pod_facts("p", pod(containerStatuses=waiting))
    assert one == other
    assert one.reason == "ImagePullFailed"
    assert "i:1" in one.message


def test_a_crashing_and_an_unschedulable_pod_say_what_to_do() -> None:
    crash = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": {"exitCode": 3}}}
    facts = pod_facts("p", pod(containerStatuses=[crash]))
    assert facts.reason == "NodeCrashing"
    assert "exit code 3" in facts.message
    assert "kubectl logs p --previous" in facts.message
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    facts = pod_facts("p", pod(conditions=[condition]))
    assert (facts.reason, "0/1 nodes" in facts.message) == ("Unschedulable", True)


def test_a_pod_knows_its_place_and_whether_it_has_answered_before() -> None:
    started = {"spec": {"nodeName": "node2"}, **pod(containerStatuses=[{"name": "node", "started": True}])}
    assert (pod_facts("p", started).place, pod_facts("p", started).started) == ("node2", True)
    assert not pod_facts("p", pod(containerStatuses=[{"name": "node", "started": False}])).started
    assert not pod_facts("p", pod()).started


def test_a_pod_that_goes_has_no_address() -> None:
    running = pod(podIP="10.0.0.1", conditions=[{"type": "Ready", "status": "True"}])
    assert pod_facts("p", running).address == "10.0.0.1:8080"
    assert pod_facts("p", pod(podIP="fd00::1")).address == "[fd00::1]:8080"
    running["metadata"]["deletionTimestamp"] = "now"
    facts = pod_facts("p", running)
    assert (facts.address, facts.ready, facts.exists) == ("", False, False)
    assert not pod_facts("p", None).exists

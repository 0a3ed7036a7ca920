"""What a Lease object means and how one is changed, without an API server."""

from __future__ import annotations

from typing import Any

import pytest

from agentworld_core.ordering.lease import LeaseWrite
from agentworld_node.kube.leases import lease_body, record_of

NOW = "2026-01-01T00:00:00.000000Z"


def lease(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "l", "resourceVersion": "7", "managedFields": [1], "labels": {"a": "b"}},
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("spec", "holder", "term", "duration_ms"),
    [
        ({}, None, 0, 0),
        ({"holderIdentity": ""}, None, 0, 0),
        ({"holderIdentity": "v0", "leaseTransitions": 0, "leaseDurationSeconds": 15}, "v0", 1, 15_000),
        ({"holderIdentity": "", "leaseTransitions": 4, "leaseDurationSeconds": 1}, None, 5, 1000),
    ],
)
def test_a_lease_is_read(spec: dict[str, Any], holder: str | None, term: int, duration_ms: int) -> None:
    record = record_of(lease(**spec))
    assert (record.holder, record.term, record.duration_ms, record.version) == (holder, term, duration_ms, "7")
    assert record_of({**lease(), "spec": None}).term == 0


@pytest.mark.parametrize("duration_ms", [1, 999, 1000, 1001, 15_000])
def test_what_is_written_reads_back_and_is_never_shorter(duration_ms: int) -> None:
    wanted = LeaseWrite(holder="v0", term=3, duration_ms=duration_ms, expected_version="9")
    body = lease_body(lease(strategy="kept"), wanted, now=NOW)
    record = record_of(body)
    assert (record.holder, record.term, record.version) == ("v0", 3, "9")
    assert record.duration_ms >= duration_ms
    assert body["spec"]["strategy"] == "kept"
    assert body["metadata"]["labels"] == {"a": "b"}
    assert "managedFields" not in body["metadata"]


def test_the_time_of_acquisition_changes_with_the_term_alone() -> None:
    held = lease(holderIdentity="v0", leaseTransitions=2, acquireTime="before", renewTime="before")
    same = LeaseWrite(holder="v0", term=3, duration_ms=1000, expected_version="7")
    renewed = lease_body(held, same, now=NOW)["spec"]
    assert (renewed["acquireTime"], renewed["renewTime"]) == ("before", NOW)
    other = LeaseWrite(holder="v1", term=4, duration_ms=1000, expected_version="7")
    assert lease_body(held, other, now=NOW)["spec"]["acquireTime"] == NOW
    assert held["spec"]["acquireTime"] == "before", "what was read is not changed"
    released = LeaseWrite(holder=None, term=3, duration_ms=1000, expected_version="7")
    assert lease_body(held, released, now=NOW)["spec"]["holderIdentity"] == ""

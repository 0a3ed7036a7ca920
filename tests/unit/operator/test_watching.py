"""Watch events become worlds to reconcile, noise does not, and a deaf watch is noticed."""

from typing import Any

import pytest

from agentworld_operator.watching import WatchMemory, WorldKey

KEY = WorldKey("default", "aurora")


def world(version: int = 1, **changes: Any) -> dict[str, Any]:
    metadata = {"name": "aurora", "namespace": "default", "uid": "u", "resourceVersion": str(version), "generation": 1}
    return {"metadata": metadata | changes.pop("metadata", {}), "spec": {}, "status": {"phase": "Ready"}} | changes


def labelled(kind_uid: str, version: int = 1, **changes: Any) -> dict[str, Any]:
    metadata = {
        "name": kind_uid,
        "namespace": "default",
        "uid": kind_uid,
        "resourceVersion": str(version),
        "labels": {"agentworld.dev/world": "aurora"},
    }
    return {"metadata": metadata} | changes


def test_a_new_or_changed_world_is_named_and_our_own_status_patch_is_not() -> None:
    watches = WatchMemory()
    assert watches.saw("World", "", world()) == KEY
    assert watches.saw("World", "MODIFIED", world(2, status={"phase": "Other"})) is None
    assert watches.saw("World", "MODIFIED", world(3, metadata={"generation": 2})) == KEY
    assert watches.saw("World", "MODIFIED", world(4, metadata={"generation": 2, "annotations": {"a": "b"}})) == KEY
    assert watches.saw("World", "DELETED", world(5)) == KEY


def test_a_lost_status_is_news() -> None:
    watches = WatchMemory()
    watches.saw("World", "", world())
    assert watches.saw("World", "MODIFIED", world(2, status={})) == KEY


@pytest.mark.parametrize("kind", ["Validator", "MembershipKey"])
def test_members_are_mapped_to_the_world_that_they_name(kind: str) -> None:
    obj = world(spec={"world": "borealis"})
    assert WatchMemory().saw(kind, "ADDED", obj) == WorldKey("default", "borealis")
    assert WatchMemory().saw(kind, "ADDED", world()) is None


def test_renewals_of_a_lease_are_noise_and_another_holder_is_not() -> None:
    watches = WatchMemory()
    lease = labelled("l", spec={"holderIdentity": "a", "leaseTransitions": 0, "renewTime": "1"})
    assert watches.saw("Lease", "ADDED", lease) == KEY
    renewed = labelled("l", 2, spec={"holderIdentity": "a", "leaseTransitions": 0, "renewTime": "2"})
    assert watches.saw("Lease", "MODIFIED", renewed) is None
    taken = labelled("l", 3, spec={"holderIdentity": "b", "leaseTransitions": 1})
    assert watches.saw("Lease", "MODIFIED", taken) == KEY
    assert watches.saw("Lease", "DELETED", taken) == KEY


def test_a_pod_matters_when_its_state_changes() -> None:
    watches = WatchMemory()
    assert watches.saw("Pod", "ADDED", labelled("p", status={"phase": "Pending"})) == KEY
    assert watches.saw("Pod", "MODIFIED", labelled("p", 2, status={"phase": "Pending", "qosClass": "x"})) is None
    assert watches.saw("Pod", "MODIFIED", labelled("p", 3, status={"phase": "Running", "podIP": "1.2.3.4"})) == KEY
    assert watches.saw("Pod", "ADDED", {"metadata": {"name": "other", "namespace": "default", "uid": "x"}}) is None


def test_a_watch_that_misses_a_change_for_a_whole_round_is_deaf_until_it_is_seen() -> None:
    watches = WatchMemory()
    watches.saw("World", "", world(1))
    watches.check("World", [world(1)])
    watches.check("World", [world(2)])
    assert not watches.deaf  # it may be on its way
    watches.check("World", [world(2)])
    assert list(watches.deaf) == ["World"]
    watches.check("Validator", [])
    assert list(watches.deaf) == ["World"]
    watches.saw("World", "MODIFIED", world(2))
    watches.check("World", [world(2)])
    assert not watches.deaf


def test_a_world_that_changes_all_the_time_is_not_taken_for_a_deaf_watch() -> None:
    watches = WatchMemory()
    for version in range(2, 10):
        watches.check("World", [world(version)])
        watches.saw("World", "MODIFIED", world(version))
    assert not watches.deaf

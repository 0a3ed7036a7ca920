"""Scaling, rotation and revocation, end to end in memory, and with the operator killed at every single write."""

from collections import Counter

import pytest

from agentworld_core.signing import Ed25519Signer
from tests.unit.operator.fake_nodes import secret
from tests.unit.operator.harness import Harness, running

OVERLAP_MS = 24 * 3_600_000


def rotate(harness: Harness, key: str, generation: int) -> None:
    harness.kube.merge("MembershipKey", key, {"spec": {"generation": generation}})


def revoke(harness: Harness, key: str, *key_ids: str) -> None:
    entries = [{"keyId": key_id, "reason": "stolen"} for key_id in key_ids]
    harness.kube.merge("MembershipKey", key, {"spec": {"revoked": entries}})


def states(harness: Harness, key: str) -> dict[int, str]:
    return {row["generation"]: row["state"] for row in harness.status("MembershipKey", key)["keys"]}


def assert_signed_once_per_epoch(harness: Harness) -> None:
    """Governance never signs two documents for one epoch, whatever happened to the operator."""
    signed = {(directory.epoch, directory.signatures) for directory in harness.nodes.submitted}
    assert Counter(epoch for epoch, _ in signed).most_common(1)[0][1] == 1


# Scaling


@pytest.mark.box("S27.1", "add")
async def test_scaling_up_lets_the_new_validator_sync_first_and_vote_later() -> None:
    harness = await running(4)
    harness.nodes.slow_sync = ["aurora-4"]
    harness.apply("World", "aurora", validators={"replicas": 5})
    await harness.settle()
    assert harness.members == [f"aurora-{n}" for n in range(4)]
    assert harness.status("Validator", "aurora-4")["phase"] == "Syncing"
    assert harness.condition("Validator", "aurora-4", "Member") == ("False", "Joining")
    assert harness.condition("World", "aurora", "Progressing") == ("True", "Joining")
    assert harness.condition("World", "aurora", "Ready")[0] == "True"
    harness.nodes.slow_sync = []
    await harness.settle()
    assert harness.members == [f"aurora-{n}" for n in range(5)]
    assert harness.status("Validator", "aurora-4")["phase"] == "Voting"
    assert harness.world["validators"]["summary"] == "5/5"
    assert "ValidatorJoined: aurora-4 is a member of the directory of epoch 2" in harness.events("ValidatorJoined")
    assert all(harness.nodes.restarts.count(f"aurora-{n}") == 1 for n in range(5))


@pytest.mark.box("S27.1", "remove")
async def test_scaling_down_takes_the_last_out_of_the_directory_first() -> None:
    harness = await running(5)
    harness.apply("World", "aurora", validators={"replicas": 4})
    await harness.once()
    assert "aurora-4" in harness.kube.names("Pod")
    await harness.settle()
    assert harness.members == [f"aurora-{n}" for n in range(4)]
    for kind in ("Validator", "MembershipKey", "Pod", "Role", "RoleBinding", "ServiceAccount", "Lease"):
        assert "aurora-4" not in harness.kube.names(kind), kind
    assert not [name for name in harness.kube.names("Secret") if name.startswith("aurora-4")]
    assert "aurora-4" in harness.kube.names("PersistentVolumeClaim")
    assert harness.world["phase"] == "Ready"
    assert len(harness.events("ValidatorLeft")) == 1


async def test_scaling_down_and_up_again_reuses_the_volume() -> None:
    harness = await running(5)
    harness.apply("World", "aurora", validators={"replicas": 4})
    await harness.settle()
    harness.apply("World", "aurora", validators={"replicas": 5})
    await harness.settle()
    assert harness.members == [f"aurora-{n}" for n in range(5)]
    assert harness.kube.names("PersistentVolumeClaim") == [f"aurora-{n}" for n in range(5)]


@pytest.mark.box("S27.1", "quorum-kept")
async def test_more_than_the_quorum_can_lose_may_not_leave_unless_forced() -> None:
    harness = await running(4)
    harness.apply("World", "aurora", validators={"replicas": 1})
    await harness.settle()
    assert len(harness.members) == 4
    assert harness.condition("World", "aurora", "Degraded") == ("True", "RemovalRefused")
    assert "agentworld.dev/force-remove" in harness.message("World", "aurora", "Degraded")
    assert harness.condition("Validator", "aurora-3", "Ready") == ("False", "RemovalRefused")
    assert len(harness.kube.names("Pod")) == 5
    harness.kube.merge("World", "aurora", {"metadata": {"annotations": {"agentworld.dev/force-remove": "true"}}})
    await harness.settle()
    assert harness.members == ["aurora-0"]
    assert [name for name in harness.kube.names("Pod") if "gateway" not in name] == ["aurora-0"]


@pytest.mark.box("S27.1", "quorum-kept")
async def test_nobody_leaves_while_those_who_stay_could_not_decide_without_it() -> None:
    harness = await running(4)
    harness.nodes.unreachable = ["aurora-1"]
    await harness.settle()
    harness.apply("World", "aurora", validators={"replicas": 3})
    await harness.settle()
    assert len(harness.members) == 4
    assert harness.world["phase"] != "QuorumLost"
    assert harness.condition("Validator", "aurora-3", "Ready") == ("False", "RemovalRefused")
    assert "aurora-1 is away" in harness.message("Validator", "aurora-3", "Ready")
    harness.nodes.unreachable = []
    await harness.settle()
    assert harness.members == ["aurora-0", "aurora-1", "aurora-2"]
    assert harness.world["phase"] == "Ready"


@pytest.mark.box("S27.1", "reweight")
async def test_a_validator_that_is_away_gets_no_weight_without_which_nothing_is_decided() -> None:
    harness = await running(4)
    harness.apply("Validator", "hand", world="aurora")
    await harness.settle()
    harness.nodes.unreachable = ["hand"]
    harness.apply("Validator", "hand", weight=10)
    await harness.settle()
    assert harness.world["phase"] != "QuorumLost"
    assert "hand may not have another weight: weight 10 of 14" in harness.message("World", "aurora", "Degraded")
    harness.nodes.unreachable = []
    await harness.settle()
    assert [member.weight for member in harness.nodes.chain[-1].members] == [1, 1, 1, 1, 10]
    assert harness.condition("World", "aurora", "Degraded") == ("False", "AsExpected")


@pytest.mark.box("S27.1", "quorum-kept")
async def test_a_fault_model_under_which_nothing_could_be_decided_now_waits() -> None:
    harness = await running(3, consensus={"faultModel": "Crash"})
    harness.nodes.unreachable = ["aurora-1"]
    harness.apply("World", "aurora", consensus={"faultModel": "Byzantine"})
    await harness.settle()
    assert (harness.nodes.chain[-1].fault_model, harness.world["phase"]) == ("Crash", "Degraded")
    assert "the fault model may not change: weight 3 of 3" in harness.message("World", "aurora", "Degraded")
    harness.nodes.unreachable = []
    await harness.settle()
    assert (harness.nodes.chain[-1].fault_model, harness.world["phase"]) == ("Byzantine", "Ready")


async def test_a_drained_validator_leaves_and_returns() -> None:
    harness = await running(5)
    harness.apply("Validator", "aurora-2", drain=True)
    await harness.settle()
    assert "aurora-2" not in harness.members
    assert "aurora-2" not in harness.kube.names("Pod")
    assert harness.status("Validator", "aurora-2")["phase"] == "Draining"
    harness.apply("Validator", "aurora-2", drain=False)
    await harness.settle()
    assert "aurora-2" in harness.members
    assert harness.world["phase"] == "Ready"


async def test_a_suspended_validator_keeps_its_seat() -> None:
    harness = await running(4)
    harness.apply("Validator", "aurora-2", suspend=True)
    await harness.settle()
    assert "aurora-2" not in harness.kube.names("Pod")
    assert "aurora-2" in harness.members
    assert harness.status("Validator", "aurora-2")["phase"] == "Suspended"
    assert harness.condition("World", "aurora", "Ready")[0] == "True"


@pytest.mark.box("S27.1", "remove")
async def test_a_hand_made_validator_joins_and_is_held_until_it_has_left() -> None:
    harness = await running(4)
    harness.apply("Validator", "hand", world="aurora", weight=1)
    await harness.settle()
    assert "hand" in harness.members
    assert harness.kube.read("Validator", "hand")["metadata"]["finalizers"] == ["agentworld.dev/leave"]
    harness.kube.remove("Validator", "hand")
    await harness.once()
    assert "hand" in harness.kube.names("Validator")
    await harness.settle()
    assert "hand" not in harness.members
    assert "hand" not in harness.kube.names("Validator")
    assert "hand" not in harness.kube.names("Pod")


async def test_the_finalizer_never_holds_up_the_end_of_the_world() -> None:
    harness = await running(4)
    harness.apply("Validator", "hand", world="aurora")
    await harness.settle()
    harness.kube.remove("World", "aurora")
    await harness.once()
    assert harness.kube.read("Validator", "hand")["metadata"].get("finalizers") is None
    harness.kube.remove("Validator", "hand")
    assert harness.kube.names("Validator") == []


async def test_a_validator_deleted_by_mistake_is_made_again_and_its_pod_untouched() -> None:
    harness = await running(4)
    harness.kube.remove("Validator", "aurora-1")
    await harness.settle()
    assert "aurora-1" in harness.kube.names("Validator")
    assert harness.nodes.restarts.count("aurora-1") == 1
    assert len(harness.nodes.chain) == 1


# Rotation


async def test_a_rotation_goes_through_its_states_without_a_restart() -> None:
    harness = await running(4)
    first = harness.status("MembershipKey", "aurora-1")["activeKeyId"]
    rotate(harness, "aurora-1", 2)
    await harness.settle()
    assert states(harness, "aurora-1") == {1: "Retiring", 2: "Active"}
    assert harness.member_keys("aurora-1") == [1, 2]
    assert harness.condition("MembershipKey", "aurora-1", "Rotating") == ("True", "Overlap")
    assert harness.condition("World", "aurora", "Progressing")[0] == "False"
    assert harness.outcome.again_seconds is not None
    harness.now_ms += OVERLAP_MS
    await harness.settle()
    assert states(harness, "aurora-1") == {1: "Retired", 2: "Active"}
    assert harness.member_keys("aurora-1") == [2]
    assert harness.condition("MembershipKey", "aurora-1", "Rotating") == ("False", "AsExpected")
    status = harness.status("MembershipKey", "aurora-1")
    assert status["activeKeyId"] == harness.nodes.nodes["aurora-1"].active != first
    assert harness.kube.read("Secret", "aurora-1-g1")["data"].keys() == {"public-key", "key-id"}
    assert harness.kube.read("Secret", "aurora-1-keys")["data"].keys() == {"g2.pem", "active"}
    assert len(harness.events("KeyRotated")) == 1
    assert all(harness.nodes.restarts.count(f"aurora-{n}") == 1 for n in range(4))
    assert_signed_once_per_epoch(harness)


async def test_signing_is_not_switched_before_every_node_has_confirmed_or_a_quorum_after_the_timeout() -> None:
    harness = await running(4)
    harness.nodes.unreachable = ["aurora-3"]
    rotate(harness, "aurora-1", 2)
    for _ in range(4):
        await harness.once()
    assert states(harness, "aurora-1") == {1: "Active", 2: "Trusted"}
    row = harness.status("MembershipKey", "aurora-1")["keys"][1]
    assert row["pendingNodes"] == ["aurora-3"]
    assert harness.condition("MembershipKey", "aurora-1", "Rotating") == ("True", "NodesToConfirm")
    harness.now_ms += 60_000
    await harness.settle()
    assert states(harness, "aurora-1") == {1: "Retiring", 2: "Active"}


async def test_the_governance_key_is_rotated_too() -> None:
    harness = await running(4)
    rotate(harness, "aurora-governance", 2)
    await harness.settle()
    harness.now_ms += OVERLAP_MS
    await harness.settle()
    assert [key.generation for key in harness.nodes.chain[-1].governance] == [2]
    assert states(harness, "aurora-governance") == {1: "Retired", 2: "Active"}
    rotate(harness, "aurora-1", 2)
    await harness.settle()
    assert states(harness, "aurora-1")[2] == "Active"


async def test_several_rotations_at_once_take_their_turns() -> None:
    harness = await running(4)
    for number in range(4):
        rotate(harness, f"aurora-{number}", 2)
    await harness.settle()
    assert all(states(harness, f"aurora-{n}") == {1: "Retiring", 2: "Active"} for n in range(4))
    harness.now_ms += OVERLAP_MS
    await harness.settle()
    assert all(harness.member_keys(f"aurora-{n}") == [2] for n in range(4))
    assert_signed_once_per_epoch(harness)


async def test_the_clock_rotates_and_a_person_still_can() -> None:
    harness = await running(1)
    harness.kube.merge("MembershipKey", "aurora-0", {"spec": {"rotation": {"interval": "48h", "overlap": "1h"}}})
    await harness.settle()
    assert harness.status("MembershipKey", "aurora-0")["nextRotationTime"] == "2026-01-03T00:00:05Z"
    harness.now_ms += 48 * 3_600_000
    await harness.settle()
    assert states(harness, "aurora-0") == {1: "Retiring", 2: "Active"}
    harness.now_ms += 3_600_000
    await harness.settle()
    rotate(harness, "aurora-0", 2)
    await harness.settle()
    assert states(harness, "aurora-0")[3] == "Active"


async def test_a_suspended_rotation_waits() -> None:
    harness = await running(1)
    rotation = {"interval": "48h", "overlap": "1h", "suspend": True}
    harness.kube.merge("MembershipKey", "aurora-0", {"spec": {"rotation": rotation}})
    await harness.settle()
    harness.now_ms += 100 * 3_600_000
    await harness.settle()
    assert states(harness, "aurora-0") == {1: "Active"}


async def _rotated(world: Harness, kill_at: int | None, *, before: bool) -> tuple[Harness, int]:
    """Rotates one key to the end, with the operator killed before or after one of its writes."""
    harness = world.copy()
    first = len(harness.kube.writes)
    rotate(harness, "aurora-1", 2)
    harness.kube.kill_before = before
    harness.kube.kill_at = None if kill_at is None else first + kill_at
    await harness.settle()
    harness.now_ms += OVERLAP_MS
    await harness.settle()
    return harness, len(harness.kube.writes) - first


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_an_operator_killed_at_any_write_of_a_rotation_finishes_it(before: bool) -> None:
    world = await running(2)
    _, writes = await _rotated(world, None, before=before)
    assert writes > 20
    # Dead after a write is dead before the next one, but for what the nodes were told in between: a sample is enough.
    for number in range(1, writes + 1, 1 if before else 5):
        harness, _ = await _rotated(world, number, before=before)
        assert states(harness, "aurora-1") == {1: "Retired", 2: "Active"}, f"killed at write {number}"
        assert harness.member_keys("aurora-1") == [2], f"killed at write {number}"
        assert len(harness.nodes.chain) == 3, f"killed at write {number}"
        assert all(harness.nodes.restarts.count(f"aurora-{n}") == 1 for n in range(2))
        assert_signed_once_per_epoch(harness)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_an_operator_killed_at_any_write_of_coming_up_makes_one_world(before: bool) -> None:
    writes = len((await running(2)).kube.writes)
    for number in range(1, writes + 1, 5):
        harness = Harness()
        harness.kube.kill_before, harness.kube.kill_at = before, number
        harness.apply("World", "aurora", validators={"replicas": 2})
        await harness.settle()
        assert harness.world["phase"] == "Ready", f"killed at write {number}"
        assert harness.members == ["aurora-0", "aurora-1"]


async def test_a_broken_secret_is_named_and_the_world_runs_on() -> None:
    harness = await running(4)
    harness.kube.merge("Secret", "aurora-1-g1", {"data": {"private.pem": "bm90IGEga2V5"}})
    await harness.settle()
    assert harness.condition("MembershipKey", "aurora-1", "Ready") == ("False", "InvalidKey")
    assert "aurora-1-g1" in harness.message("MembershipKey", "aurora-1", "Ready")
    assert harness.condition("World", "aurora", "Degraded") == ("True", "InvalidKey")
    assert harness.condition("World", "aurora", "Ready")[0] == "True"
    assert harness.status("Validator", "aurora-1")["phase"] == "Voting"
    rotate(harness, "aurora-1", 2)
    await harness.settle()
    assert harness.member_keys("aurora-1") == [1, 2]


async def test_a_lost_secret_of_a_validator_is_replaced_by_rotation() -> None:
    harness = await running(4)
    old = harness.status("MembershipKey", "aurora-1")["activeKeyId"]
    harness.kube.remove("Secret", "aurora-1-g1")
    await harness.settle()
    assert harness.status("MembershipKey", "aurora-1")["activeKeyId"] != old
    assert harness.status("Validator", "aurora-1")["phase"] == "Voting"


async def test_a_lost_secret_of_governance_is_missed_loudly_and_never_made_anew() -> None:
    harness = await running(4)
    stored = harness.kube.read("Secret", "aurora-governance-g1")
    harness.kube.remove("Secret", "aurora-governance-g1")
    await harness.settle()
    assert "aurora-governance-g1" not in harness.kube.names("Secret")
    assert harness.condition("MembershipKey", "aurora-governance", "Ready") == ("False", "InvalidKey")
    assert "backup" in harness.message("World", "aurora", "Degraded")
    assert harness.condition("World", "aurora", "Ready")[0] == "True"
    harness.kube.put(stored)
    await harness.settle()
    assert harness.condition("World", "aurora", "Degraded") == ("False", "AsExpected")


async def test_a_key_that_a_person_brought_is_used_and_a_wrong_one_explained() -> None:
    mine, next_one = Ed25519Signer(b"1" * 32), Ed25519Signer(b"2" * 32)
    harness = Harness()
    harness.apply("World", "aurora", validators={"replicas": 2})
    harness.apply("MembershipKey", "mine", world="aurora", validator="aurora-0", secretRef={"name": "my-key"})
    await harness.settle()
    assert harness.condition("MembershipKey", "mine", "Ready") == ("False", "InvalidKey")
    assert "my-key" in harness.message("MembershipKey", "mine", "Ready")
    assert harness.world["phase"] == "Pending"
    harness.kube.put(secret("my-key", private_pem=mine.pem()))
    await harness.settle()
    assert harness.world["phase"] == "Ready"
    assert harness.status("MembershipKey", "mine")["activeKeyId"] == mine.key_id
    assert "aurora-0" not in harness.kube.names("MembershipKey")
    harness.kube.put(secret("my-next-key", private_pem=next_one.pem()))
    harness.kube.merge("MembershipKey", "mine", {"spec": {"generation": 2, "secretRef": {"name": "my-next-key"}}})
    await harness.settle()
    assert harness.status("MembershipKey", "mine")["activeKeyId"] == next_one.key_id


# Revocation


async def test_a_revoked_key_is_confirmed_by_every_node_and_replaced_at_once() -> None:
    harness = await running(4)
    old = harness.status("MembershipKey", "aurora-1")["activeKeyId"]
    revoke(harness, "aurora-1", old)
    await harness.once()
    assert all(old in node.revoked for node in harness.nodes.nodes.values())
    await harness.settle()
    row = harness.world["revocations"][0]
    assert (row["keyId"], row["reason"], row["appliedBy"]) == (old, "stolen", 5)
    assert "pendingNodes" not in row
    assert harness.world["revokedKeys"] == 1
    assert harness.condition("World", "aurora", "RevocationsConverged") == ("True", "AsExpected")
    assert states(harness, "aurora-1") == {1: "Revoked", 2: "Active"}
    assert harness.member_keys("aurora-1") == [2]
    assert [entry.key_id for entry in harness.nodes.chain[-1].revoked] == [old]
    assert harness.status("Validator", "aurora-1")["phase"] == "Voting"
    assert len(harness.events("KeyRevoked")) == 1
    assert len(harness.events("RevocationConverged")) == 1
    assert_signed_once_per_epoch(harness)


async def test_a_node_that_is_away_stays_pending_until_it_confirms() -> None:
    harness = await running(4)
    harness.nodes.unreachable = ["aurora-3"]
    old = harness.status("MembershipKey", "aurora-1")["activeKeyId"]
    revoke(harness, "aurora-1", old)
    await harness.settle()
    assert harness.world["revocations"][0]["pendingNodes"] == ["aurora-3"]
    assert harness.condition("World", "aurora", "RevocationsConverged") == ("False", "NodesPending")
    assert harness.condition("MembershipKey", "aurora-1", "RevocationsConverged") == ("False", "NodesPending")
    assert harness.events("RevocationConverged") == []
    harness.now_ms += 300_000
    await harness.settle()
    assert harness.condition("World", "aurora", "RevocationsConverged") == ("False", "RevocationStalled")
    assert len(harness.events("RevocationStalled")) == 1
    harness.nodes.unreachable = []
    await harness.settle()
    assert harness.condition("World", "aurora", "RevocationsConverged") == ("True", "AsExpected")
    assert len(harness.events("RevocationConverged")) == 1


async def test_where_the_quorum_would_be_lost_the_key_is_replaced_first() -> None:
    harness = await running(1)
    old = harness.status("MembershipKey", "aurora-0")["activeKeyId"]
    revoke(harness, "aurora-0", old)
    await harness.once()
    assert all(old not in node.revoked for node in harness.nodes.nodes.values())
    assert harness.condition("World", "aurora", "RevocationsConverged") == ("False", "ReplacedFirst")
    await harness.settle()
    assert all(old in node.revoked for node in harness.nodes.nodes.values())
    assert states(harness, "aurora-0") == {1: "Revoked", 2: "Active"}
    assert harness.member_keys("aurora-0") == [2]
    assert harness.world["phase"] == "Ready"


async def test_two_keys_revoked_at_once_are_both_replaced() -> None:
    harness = await running(7)
    old = [harness.status("MembershipKey", f"aurora-{n}")["activeKeyId"] for n in (1, 2)]
    revoke(harness, "aurora-1", *old)
    await harness.settle()
    assert sorted(entry.key_id for entry in harness.nodes.chain[-1].revoked) == sorted(old)
    assert harness.member_keys("aurora-1") == harness.member_keys("aurora-2") == [2]
    assert harness.world["phase"] == "Ready"


async def test_the_last_governance_key_is_not_revoked_until_there_is_another() -> None:
    harness = await running(4)
    old = harness.status("MembershipKey", "aurora-governance")["activeKeyId"]
    revoke(harness, "aurora-governance", old)
    await harness.settle()
    assert harness.condition("MembershipKey", "aurora-governance", "RevocationsConverged") == (
        "False",
        "RevocationRefused",
    )
    assert "agentworld.dev/force-revoke" in harness.message(
        "MembershipKey", "aurora-governance", "RevocationsConverged"
    )
    assert harness.condition("World", "aurora", "Degraded") == ("True", "RevocationRefused")
    assert len(harness.events("RevocationStalled")) == 1
    rotate(harness, "aurora-governance", 2)
    await harness.settle()
    assert harness.condition("World", "aurora", "RevocationsConverged") == ("True", "AsExpected")
    assert [key.generation for key in harness.nodes.chain[-1].governance] == [2]


async def test_a_deleted_membership_key_leaves_its_revocations_standing() -> None:
    harness = await running(4)
    old = harness.status("MembershipKey", "aurora-1")["activeKeyId"]
    revoke(harness, "aurora-1", old)
    await harness.settle()
    harness.kube.remove("MembershipKey", "aurora-1")
    await harness.settle()
    assert [row["keyId"] for row in harness.world["revocations"]] == [old]
    assert [entry.key_id for entry in harness.nodes.chain[-1].revoked] == [old]
    assert harness.status("MembershipKey", "aurora-1")["activeKeyId"] != old
    assert harness.world["phase"] == "Ready"


async def test_a_revocation_survives_the_loss_of_every_status() -> None:
    harness = await running(4)
    old = harness.status("MembershipKey", "aurora-1")["activeKeyId"]
    revoke(harness, "aurora-1", old)
    await harness.settle()
    statement = harness.world["revocations"][0]["statement"]
    for kind in ("World", "MembershipKey", "Validator"):
        for name in harness.kube.names(kind):
            harness.kube.merge(kind, name, {"status": None})
    harness.restart()
    await harness.settle()
    assert harness.world["revocations"][0]["statement"] == statement
    assert states(harness, "aurora-1") == {1: "Revoked", 2: "Active"}


async def test_two_governance_keys_sign_together() -> None:
    harness = Harness()
    for name in ("root-a", "root-b"):
        harness.apply("MembershipKey", name, world="aurora", purpose="Governance")
    harness.apply(
        "World", "aurora", validators={"replicas": 4}, governance={"keys": ["root-a", "root-b"], "threshold": 2}
    )
    await harness.settle()
    assert harness.world["phase"] == "Ready"
    rotate(harness, "aurora-1", 2)
    await harness.settle()
    assert len(harness.nodes.chain[-1].signatures) == 2
    assert states(harness, "aurora-1")[2] == "Active"


async def test_changed_rules_of_the_world_become_a_directory() -> None:
    harness = await running(4)
    harness.apply("MembershipKey", "root", world="aurora", purpose="Governance")
    harness.apply(
        "World", "aurora", consensus={"faultModel": "Crash"}, governance={"keys": ["aurora-governance", "root"]}
    )
    await harness.settle()
    directory = harness.nodes.chain[-1]
    assert (directory.fault_model, len(directory.governance)) == ("Crash", 2)
    harness.apply("World", "aurora", governance={"keys": ["root"]})
    await harness.settle()
    assert len(harness.nodes.chain[-1].governance) == 1
    assert harness.world["phase"] == "Ready"

"""From a manifest to a running world, and back: the whole reconciler against an API server and nodes in memory."""

import base64
import copy
import json
from typing import Any

import pytest

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_vote
from agentworld_core.consensus.evidence import evidence_id, evidence_of
from agentworld_core.consensus.verdict import Verdict
from agentworld_core.messages import PRECOMMIT, Equivocation, Round
from agentworld_core.signing import Ed25519Signer, sign
from agentworld_core.topology.node_config import NodeConfig
from tests.unit.operator.fake_nodes import secret
from tests.unit.operator.harness import Harness, running


async def test_a_six_line_world_comes_up_and_is_ready() -> None:
    harness = await running(4)
    assert harness.condition("World", "aurora", "Ready") == ("True", "AsExpected")
    status = harness.world
    assert status["phase"] == "Ready"
    assert status["validators"] == {
        "desired": 4,
        "ready": 4,
        "inSync": 4,
        "quorum": 3,
        "tolerates": 1,
        "summary": "4/4",
    }
    assert status["sequencer"] == {"holder": "aurora-0", "term": 1, "lease": "aurora-sequencer"}
    assert status["directory"]["epoch"] == 1
    assert status["directory"]["appliedBy"] == 5
    assert status["endpoints"] == {"gateway": "http://aurora-gateway.default.svc:8080"}
    assert [harness.status("Validator", f"aurora-{n}")["phase"] for n in range(4)] == ["Voting"] * 4
    for name in ("aurora-governance", "aurora-0", "aurora-3"):
        assert harness.condition("MembershipKey", name, "Ready") == ("True", "AsExpected")
        assert harness.status("MembershipKey", name)["keys"][0]["state"] == "Active"
    assert harness.condition("World", "aurora", "Degraded") == ("False", "AsExpected")
    assert harness.condition("World", "aurora", "FaultTolerant") == ("True", "AsExpected")


async def test_the_events_of_coming_up_are_told_once() -> None:
    harness = await running(4)
    assert len(harness.events("WorldInitialized")) == 1
    assert harness.events("WriterChanged") == ["WriterChanged: aurora-0 orders the actions (term 1)"]
    assert len(harness.events("ValidatorJoined")) == 4
    assert harness.events("QuorumLost") == []


async def test_a_world_that_stands_still_is_not_written_to() -> None:
    harness = await running(4)
    before = len(harness.kube.writes)
    for _ in range(40):  # ten minutes
        await harness.once()
        harness.now_ms += 10_000
    assert harness.kube.writes[before:] == []


async def test_a_world_that_is_stalled_says_what_is_missing_and_is_not_written_to_while_that_stays_so() -> None:
    harness = await running(4)
    assert harness.condition("World", "aurora", "Moving") == ("True", "AsExpected")
    stuck = Verdict(state="Precommits", message="waits for 1 more of 3 precommits: a, b missing", stalled=True)
    harness.nodes.progress = {"aurora-0": stuck}
    await harness.settle()
    assert harness.condition("World", "aurora", "Moving") == ("True", "AsExpected"), "one does not speak for all"
    harness.nodes.progress = dict.fromkeys(["aurora-0", "aurora-1", "aurora-3"], stuck)
    await harness.settle()
    assert harness.condition("World", "aurora", "Moving") == ("False", "Precommits")
    assert harness.message("World", "aurora", "Moving").startswith(stuck.message)
    before = len(harness.kube.writes)
    for _ in range(10):
        await harness.once()
        harness.now_ms += 10_000
    assert harness.kube.writes[before:] == []
    harness.nodes.progress = {"aurora-0": Verdict(state="Prevotes", message="waits for 2 more")}
    await harness.settle()
    assert harness.condition("World", "aurora", "Moving") == ("True", "AsExpected")
    before = len(harness.kube.writes)
    harness.nodes.progress = {}
    await harness.settle()
    assert harness.kube.writes[before:] == [], "idle or busy is no matter for a status"


async def test_whether_a_world_moves_is_unknown_while_nobody_answers() -> None:
    harness = await running(4)
    harness.nodes.unreachable = [f"aurora-{number}" for number in range(4)]
    await harness.once()
    assert harness.condition("World", "aurora", "Moving") == ("Unknown", "NodesUnreachable")
    harness.apply("World", "aurora", validators={"replicas": 4}, hibernated=True)
    await harness.settle()
    assert harness.condition("World", "aurora", "Moving") == ("False", "Hibernated")


async def test_not_even_by_an_operator_that_has_just_started() -> None:
    harness = await running(4)
    before = len(harness.kube.writes)
    harness.restart()
    await harness.once()
    assert harness.kube.writes[before:] == []


async def test_while_blocks_are_committed_only_statuses_are_written() -> None:
    harness = await running(4)
    before = len(harness.kube.writes)
    for _ in range(5):
        harness.nodes.commit()
        await harness.once()
    assert harness.world["head"]["height"] == harness.nodes.height
    assert {write.split()[0] for write in harness.kube.writes[before:]} == {"status"}
    per_pass = (len(harness.kube.writes) - before) / 5
    assert per_pass == 5  # the World and its four Validators, once each


async def test_everything_but_retained_volumes_is_owned_by_the_world() -> None:
    harness = await running(4)
    uid = harness.kube.read("World", "aurora")["metadata"]["uid"]
    for (kind, _, name), obj in harness.kube.objects.items():
        owners = [owner["uid"] for owner in obj["metadata"].get("ownerReferences", [])]
        if kind in ("World", "Event", "PersistentVolumeClaim"):
            assert owners == [], name
        elif not name.startswith("aurora-gateway-") or kind != "Pod":
            assert owners == [uid], f"{kind} {name}"


async def test_deleting_a_world_leaves_volumes_only_and_no_finalizer() -> None:
    harness = await running(4)
    harness.kube.remove("World", "aurora")
    await harness.once()
    kinds = {kind for kind, _, _ in harness.kube.objects}
    assert kinds == {"PersistentVolumeClaim", "Event"}
    assert harness.kube.names("PersistentVolumeClaim") == [f"aurora-{n}" for n in range(4)]


async def test_with_deletion_policy_delete_volumes_go_too_even_when_it_was_set_late() -> None:
    harness = await running(4)
    harness.apply("World", "aurora", deletionPolicy="Delete")
    await harness.settle()
    harness.kube.remove("World", "aurora")
    await harness.once()
    assert {kind for kind, _, _ in harness.kube.objects} == {"Event"}


async def test_a_new_world_of_the_same_name_never_mounts_the_old_volumes() -> None:
    harness = await running(1)
    harness.kube.remove("World", "aurora")
    await harness.once()
    fresh = Harness()
    fresh.kube.objects = harness.kube.objects
    fresh.kube._uid = 500
    fresh.apply("World", "aurora", validators={"replicas": 1})
    await fresh.settle()
    assert fresh.condition("World", "aurora", "Ready")[0] == "True"
    claim = fresh.kube.read("Pod", "aurora-0")["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim != "aurora-0"
    assert fresh.kube.names("PersistentVolumeClaim") == sorted(["aurora-0", claim])
    fresh.kube.remove("PersistentVolumeClaim", "aurora-0")
    fresh.kube.remove("Pod", "aurora-0")
    await fresh.settle()
    again = fresh.kube.read("Pod", "aurora-0")["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert again == claim


async def test_a_deleted_pod_comes_back_with_its_volume() -> None:
    harness = await running(4)
    harness.kube.remove("Pod", "aurora-2")
    await harness.settle()
    assert harness.nodes.restarts.count("aurora-2") == 2
    assert harness.kube.names("PersistentVolumeClaim") == [f"aurora-{n}" for n in range(4)]
    assert harness.condition("World", "aurora", "Ready")[0] == "True"


async def test_what_somebody_changes_or_deletes_is_put_right() -> None:
    harness = await running(4)
    harness.kube.merge("Service", "aurora-gateway", {"spec": {"selector": {"app": "other"}}})
    harness.kube.remove("Role", "aurora-1")
    await harness.settle()
    assert "app" in harness.kube.read("Service", "aurora-gateway")["spec"]["selector"]  # theirs, and harmless
    assert harness.kube.read("Service", "aurora-gateway")["spec"]["selector"]["agentworld.dev/world"] == "aurora"
    assert "aurora-1" in harness.kube.names("Role")


@pytest.mark.box("S5.3", "deleted")
async def test_a_deleted_writer_lease_comes_back_with_a_term_that_only_grows() -> None:
    harness = await running(4)
    harness.kube.merge("Lease", "aurora-sequencer", {"spec": {"holderIdentity": "nobody", "leaseTransitions": 6}})
    await harness.settle()
    assert harness.world["sequencer"]["term"] == 8
    harness.kube.remove("Lease", "aurora-sequencer")
    await harness.settle()
    assert harness.world["sequencer"]["term"] == 9


async def test_each_node_gets_a_configuration_that_it_can_start_from() -> None:
    harness = await running(4, sequencer={"leaseDuration": "6s", "renewDeadline": "4s", "retryPeriod": "1s"})
    files = harness.kube.read("ConfigMap", "aurora-config")["data"]
    assert sorted(files) == [*(f"aurora-{n}.json" for n in range(4)), "aurora-gateway.json", "peers.json"]
    config = NodeConfig.from_dict(json.loads(files["aurora-2.json"]))
    assert (config.node_id, config.lease.kind, config.lease.name) == ("aurora-2", "kubernetes", "aurora-sequencer")
    assert (config.lease.heartbeat_name, config.lease.duration_ms) == ("aurora-2", 6_000)
    assert NodeConfig.from_dict(json.loads(files["aurora-gateway.json"])).roles == ("gateway", "storage")
    peers = json.loads(files["peers.json"])
    assert next(peer["addresses"] for peer in peers) == ["aurora-0.aurora-peers.default.svc:4001"]
    assert all(peer["peer_id"].startswith("12D3Koo") for peer in peers)


async def test_hibernation_stops_pods_and_keeps_data() -> None:
    harness = await running(4)
    harness.apply("World", "aurora", hibernated=True)
    await harness.settle()
    assert harness.kube.names("Pod") == []
    assert harness.world["phase"] == "Hibernated"
    assert len(harness.kube.names("PersistentVolumeClaim")) == 4
    harness.apply("World", "aurora", hibernated=False)
    await harness.settle()
    assert harness.world["phase"] == "Ready"


async def test_a_paused_world_is_watched_and_not_touched() -> None:
    harness = await running(4)
    harness.apply("World", "aurora", paused=True)
    await harness.settle()
    harness.kube.remove("Pod", "aurora-1")
    harness.nodes.commit()
    await harness.settle()
    assert "aurora-1" not in harness.kube.names("Pod")
    assert harness.condition("World", "aurora", "Paused") == ("True", "Paused")
    assert harness.world["head"]["height"] == harness.nodes.height
    harness.apply("World", "aurora", paused=False)
    await harness.settle()
    assert "aurora-1" in harness.kube.names("Pod")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sequencer": {"leaseDuration": "5s"}}, "spec.sequencer.leaseDuration"),
        ({"validators": {"replicas": 0}}, "spec.validators.replicas"),
        ({"revocation": {"delivery": {"sinks": [{"pigeon": {}}]}}}, "spec.revocation.delivery.sinks[0]"),
        ({"governance": {"keys": ["nobody"]}}, "spec.governance.keys"),
    ],
)
async def test_an_invalid_spec_is_explained_and_the_running_world_left_alone(
    change: dict[str, Any], field: str
) -> None:
    harness = await running(4)
    pods = {name: harness.kube.read("Pod", name)["metadata"]["uid"] for name in harness.kube.names("Pod")}
    harness.apply("World", "aurora", **change)
    await harness.settle()
    assert harness.condition("World", "aurora", "Ready") == ("False", "InvalidSpec")
    assert field in harness.message("World", "aurora", "Ready")
    assert harness.world["phase"] == "Invalid"
    assert len(harness.events("InvalidSpec")) == 1
    assert pods == {name: harness.kube.read("Pod", name)["metadata"]["uid"] for name in harness.kube.names("Pod")}
    assert harness.members == [f"aurora-{n}" for n in range(4)]


async def test_an_invalid_validator_does_not_count_as_one_that_left() -> None:
    harness = await running(4)
    harness.kube.merge("Validator", "aurora-1", {"spec": {"weight": 0}})
    await harness.settle()
    assert harness.condition("Validator", "aurora-1", "Ready") == ("False", "InvalidSpec")
    assert "aurora-1" in harness.message("World", "aurora", "Ready")
    assert harness.members == [f"aurora-{n}" for n in range(4)]


@pytest.mark.parametrize(
    ("kind", "api_version", "name"),
    [
        ("Lease", "coordination.k8s.io/v1", "aurora-sequencer"),
        ("Secret", "v1", "aurora-1-keys"),
        ("ConfigMap", "v1", "aurora-config"),
        ("Pod", "v1", "aurora-0"),
    ],
)
async def test_a_foreign_object_is_never_adopted(kind: str, api_version: str, name: str) -> None:
    harness = Harness()
    theirs = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": {}}
    stored = harness.kube.put(theirs)
    version = stored["metadata"]["resourceVersion"]
    harness.nodes.nodes = {}
    harness.apply("World", "aurora", validators={"replicas": 4})
    for _ in range(4):
        await harness.context.kube.find("World", "default")
        from agentworld_operator.reconcile.world import reconcile_world

        await reconcile_world(harness.context, "default", "aurora")
    assert harness.kube.read(kind, name)["metadata"]["resourceVersion"] == version
    assert harness.condition("World", "aurora", "Degraded") == ("True", "ForeignObject")
    assert f"{kind} {name}" in harness.message("World", "aurora", "Degraded")
    assert len(harness.events("ForeignObject")) == 1


async def test_a_missing_image_is_explained_and_recovers() -> None:
    harness = Harness()
    harness.nodes.image_missing = True
    harness.apply("World", "aurora", validators={"replicas": 4})
    await harness.settle()
    assert harness.condition("World", "aurora", "Degraded") == ("True", "ImagePullFailed")
    assert "node:1" in harness.message("World", "aurora", "Degraded")
    assert harness.status("Validator", "aurora-0")["phase"] == "Failed"
    assert len(harness.events("ImagePullFailed")) == 1
    harness.nodes.image_missing = False
    await harness.settle()
    assert harness.world["phase"] == "Ready"


async def test_a_lost_quorum_is_told_once_and_its_return_shown() -> None:
    harness = await running(4)
    harness.nodes.unreachable = ["aurora-1", "aurora-3"]
    await harness.settle()
    assert harness.condition("World", "aurora", "QuorumAvailable") == ("False", "QuorumLost")
    assert "aurora-1" in harness.message("World", "aurora", "QuorumAvailable")
    assert harness.world["phase"] == "QuorumLost"
    assert len(harness.events("QuorumLost")) == 1
    harness.nodes.unreachable = []
    await harness.settle()
    assert harness.world["phase"] == "Ready"


async def test_one_of_four_lost_is_degraded_and_still_ready() -> None:
    harness = await running(4)
    harness.nodes.unreachable = ["aurora-1"]
    await harness.settle()
    assert harness.condition("World", "aurora", "Ready")[0] == "True"
    assert harness.condition("World", "aurora", "Degraded") == ("True", "NodesNotReady")
    assert harness.world["validators"]["summary"] == "3/4"
    assert harness.message("World", "aurora", "Degraded") == (
        "cannot vote now: aurora-1 (does not answer, on a machine). See the conditions of these Validators"
    )
    assert harness.condition("Validator", "aurora-1", "Ready") == ("False", "NodesUnreachable")
    assert "was started on a machine and does not answer" in harness.message("Validator", "aurora-1", "Ready")


async def test_when_nobody_answers_the_last_known_head_stands() -> None:
    harness = await running(1)
    harness.nodes.commit(7)
    await harness.settle()
    head = harness.world["head"]
    harness.nodes.unreachable = list(harness.nodes.nodes)
    await harness.settle()
    assert harness.world["head"] == head
    assert harness.world["phase"] == "QuorumLost"


async def test_a_changed_template_restarts_nothing_by_itself_and_says_so() -> None:
    harness = await running(4)
    harness.apply("World", "aurora", image={"tag": "2"})
    await harness.settle()
    assert all(harness.nodes.restarts.count(f"aurora-{n}") == 1 for n in range(4))
    assert harness.condition("World", "aurora", "Progressing") == ("False", "RolloutPending")
    for number in range(4):
        harness.kube.remove("Pod", f"aurora-{number}")
        await harness.settle()
    assert harness.condition("World", "aurora", "Progressing") == ("False", "AsExpected")
    image = harness.kube.read("Pod", "aurora-3")["spec"]["containers"][0]["image"]
    assert image == "node:2"


@pytest.mark.box("S7.1", "rate")
async def test_a_changed_rate_limit_rolls_the_gateways_and_is_said_of_the_validators() -> None:
    harness = await running()

    def limits() -> tuple[str, list[int]]:
        pods = harness.kube.read("Deployment", "aurora-gateway")["spec"]["template"]
        files = harness.kube.read("ConfigMap", "aurora-config")["data"]
        configs = [NodeConfig.from_dict(json.loads(files[name])) for name in ("aurora-gateway.json", "aurora-0.json")]
        return pods["metadata"]["annotations"]["agentworld.dev/config-hash"], [c.rate_limit_burst for c in configs]

    hashes = [limits()[0]]
    for burst in (10, 20):
        harness.apply("World", "aurora", gateway={"rateLimit": {"requestsPerSecond": 5, "burst": burst}})
        await harness.settle()
        found, bursts = limits()
        assert bursts == [burst, burst]
        hashes.append(found)
        assert harness.condition("World", "aurora", "Progressing") == ("False", "RolloutPending")
        assert "aurora-0" in harness.message("World", "aurora", "Progressing")
        assert harness.condition("World", "aurora", "FieldsEffective")[0] == "True"
    assert len(set(hashes)) == 3, "each change makes new pods of the Deployment"


async def test_fields_without_effect_are_named_in_one_condition() -> None:
    harness = await running(4, observers={"replicas": 2})
    assert harness.condition("World", "aurora", "FieldsEffective") == ("False", "NotYetEffective")
    assert "spec.observers.replicas" in harness.message("World", "aurora", "FieldsEffective")


async def test_what_the_genesis_has_fixed_is_named_when_it_is_changed() -> None:
    harness = await running(1)
    harness.apply("World", "aurora", consensus={"blockInterval": "2s"})
    await harness.settle()
    assert "fixed by the genesis" in harness.message("World", "aurora", "FieldsEffective")
    assert "spec.consensus.blockInterval" in harness.message("World", "aurora", "FieldsEffective")
    assert harness.condition("World", "aurora", "Ready")[0] == "True"


async def test_a_volume_grows_with_the_template_and_a_refusal_is_named() -> None:
    harness = await running(1)
    harness.apply("World", "aurora", validators={"replicas": 1, "template": {"storage": {"size": "20Gi"}}})
    await harness.settle()
    claim = harness.kube.read("PersistentVolumeClaim", "aurora-0")
    assert claim["spec"]["resources"]["requests"]["storage"] == "20Gi"
    harness.kube.forbidden.append("patch PersistentVolumeClaim aurora-0")
    harness.apply("World", "aurora", validators={"replicas": 1, "template": {"storage": {"size": "30Gi"}}})
    for _ in range(3):
        await harness.once()
    assert harness.condition("World", "aurora", "Degraded") == ("True", "ObjectsRefused")
    assert harness.condition("World", "aurora", "Ready")[0] == "True"


@pytest.mark.parametrize("with_status", [True, False])
async def test_a_lost_genesis_is_recovered_from_the_nodes_and_never_made_anew(with_status: bool) -> None:
    harness = await running(4)
    genesis = harness.kube.read("ConfigMap", "aurora-genesis")["binaryData"]
    if not with_status:
        harness.kube.merge("World", "aurora", {"status": None})
    harness.kube.remove("ConfigMap", "aurora-genesis")
    await harness.settle()
    assert harness.kube.read("ConfigMap", "aurora-genesis")["binaryData"] == genesis
    assert harness.world["phase"] == "Ready"


async def test_a_genesis_that_nobody_has_is_missed_loudly() -> None:
    harness = await running(4)
    before = harness.world["genesisHash"]
    harness.nodes.unreachable = list(harness.nodes.nodes)
    harness.kube.remove("ConfigMap", "aurora-genesis")
    await harness.settle()
    assert "aurora-genesis" not in harness.kube.names("ConfigMap")
    assert "ConfigMap aurora-genesis" in harness.message("World", "aurora", "Degraded")
    harness.nodes.unreachable = []
    await harness.settle()
    assert harness.world["genesisHash"] == before


async def test_a_world_of_one_warns_that_it_tolerates_no_fault() -> None:
    harness = await running(1)
    assert harness.condition("World", "aurora", "FaultTolerant") == ("False", "NoFaultTolerated")
    assert harness.condition("World", "aurora", "Ready")[0] == "True"
    assert harness.kube.names("PodDisruptionBudget") == []


async def test_a_lost_status_is_made_anew() -> None:
    harness = await running(4)
    before = harness.world
    harness.kube.merge("World", "aurora", {"status": None})
    await harness.settle()
    after = harness.world
    for field in ("head", "directory", "validators", "genesisHash", "phase", "sequencer"):
        assert after[field] == before[field]


async def test_a_validator_without_a_world_says_so() -> None:
    harness = Harness("elsewhere")
    harness.apply("Validator", "v", world="elsewhere")
    await harness.once()
    assert harness.condition("Validator", "v", "Ready") == ("False", "WorldMissing")
    before = len(harness.kube.writes)
    await harness.once()
    assert len(harness.kube.writes) == before


def voted_twice(harness: Harness, name: str, *, signed_by: str = "") -> Equivocation:
    folder = harness.kube.read("Secret", f"{signed_by or name}-keys")["data"]
    signer = Ed25519Signer.from_pem(base64.b64decode(folder["g1.pem"]))
    directory = harness.nodes.chain[-1]
    votes = [
        sign(
            draft_vote(
                directory, validator_id=name, height=9, round_=Round(1, 0), phase=PRECOMMIT, block_hash=block_hash
            ),
            signer,
        )
        for block_hash in (None, "a" * 64)
    ]
    return evidence_of(*votes)


@pytest.mark.box("S25.3", "cheat-shown")
async def test_evidence_of_two_votes_is_shown_and_told_once() -> None:
    harness = await running(4)
    found = voted_twice(harness, "aurora-2")
    harness.nodes.proofs = [found]
    await harness.settle()
    (row,) = harness.status("Validator", "aurora-2")["evidence"]
    assert row.pop("observedTime")
    assert row == {
        "hash": evidence_id(found), "height": 9, "term": 1, "attempt": 0, "phase": "precommit",
        "secondBlockHash": "a" * 64, "proof": base64.b64encode(encode(found)).decode(),
    }  # fmt: skip
    (shown,) = harness.world["evidence"]
    assert {key: shown[key] for key in (*row, "validator")} == row | {"validator": "aurora-2"}
    (event,) = set(harness.events("Equivocation"))
    assert evidence_id(found) in event
    assert "evidence" not in harness.status("Validator", "aurora-1")
    before = len(harness.kube.writes)
    harness.restart()
    await harness.once()
    harness.nodes.proofs = []
    await harness.once()
    assert harness.kube.writes[before:] == [], "what was shown stays"


@pytest.mark.box("S25.3", "cheat-shown")
async def test_a_row_of_an_operator_that_showed_no_proof_gets_one_and_is_told_no_second_time() -> None:
    harness = await running(4)
    found = voted_twice(harness, "aurora-2")
    harness.nodes.proofs = [found]
    await harness.settle()
    shown = copy.deepcopy([harness.status("Validator", "aurora-2")["evidence"], harness.world["evidence"]])
    told = len(harness.events("Equivocation"))
    for kind, name in (("Validator", "aurora-2"), ("World", "aurora")):
        for row in harness.kube.read(kind, name)["status"]["evidence"]:
            del row["proof"]
    harness.restart()
    await harness.settle()
    assert [harness.status("Validator", "aurora-2")["evidence"], harness.world["evidence"]] == shown
    assert len(harness.events("Equivocation")) == told


async def test_what_definitions_of_an_older_release_drop_is_not_sent_again_until_something_changes() -> None:
    def prune(stored: dict[str, Any]) -> None:
        for row in (stored.get("status") or {}).get("evidence", []):
            row.pop("proof", None)

    harness = await running(4)
    harness.kube.prune = prune
    found = voted_twice(harness, "aurora-2")
    harness.nodes.proofs = [found]
    await harness.settle()
    assert [row["hash"] for row in harness.world["evidence"]] == [evidence_id(found)]
    harness.kube.prune = lambda _stored: None
    before = len(harness.kube.writes)
    await harness.once()
    assert harness.kube.writes[before:] == [], "nothing tells that there are other definitions now"
    harness.apply("World", "aurora", {"labels": {"any": "change"}})
    await harness.settle()
    assert harness.world["evidence"][0]["proof"]
    assert "proof" not in harness.status("Validator", "aurora-2")["evidence"][0]
    harness.restart()
    await harness.settle()
    assert harness.status("Validator", "aurora-2")["evidence"][0]["proof"]
    assert len(set(harness.events("Equivocation"))) == 1


@pytest.mark.box("S25.3", "cheat-shown")
async def test_no_node_is_believed_that_another_one_voted_twice() -> None:
    harness = await running(4)
    harness.nodes.proofs = [voted_twice(harness, "aurora-2", signed_by="aurora-1")]
    before = len(harness.kube.writes)
    await harness.settle()
    assert harness.kube.writes[before:] == []
    assert "evidence" not in harness.world
    assert harness.events("Equivocation") == []


async def test_an_identity_that_a_person_brought_is_used() -> None:
    from agentworld_core.names import peer_id_of
    from agentworld_core.signing import Ed25519Signer

    mine = Ed25519Signer(b"m" * 32)
    harness = Harness()
    harness.kube.put(secret("my-identity", identity_pem=mine.pem()))
    harness.apply("Validator", "own", world="aurora", identity={"secretRef": {"name": "my-identity"}})
    harness.apply("World", "aurora", validators={"replicas": 3})
    await harness.settle()
    assert harness.status("Validator", "own")["peerId"] == peer_id_of(mine.public_key)
    assert "own" in harness.members

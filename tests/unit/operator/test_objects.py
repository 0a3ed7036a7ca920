"""The objects that are made for a world: valid, restricted, least-privileged, complete."""

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes_validate import validate

from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.plan import Topology, plan_world
from agentworld_operator.plan import access, files, network
from agentworld_operator.plan.pods import Image, gateway_deployment, template_hash, validator_pod, volume_claim
from agentworld_operator.resources.objects import labels, selector
from tests.unit.core.topology.manifests import validator, world

IMAGE = Image(reference="node:1")
SIGNER = Ed25519Signer(b"s" * 32)
KUBERNETES = "1.33"


def topology(replicas: int = 4, **spec: Any) -> Topology:
    return plan_world(world(validators={"replicas": replicas, **spec.pop("template", {})}, **spec), [], [])


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    plan = topology()
    yield "validator", validator_pod(plan, plan.members[0], IMAGE, claim="aurora-0")["spec"]
    yield "gateway", gateway_deployment(plan, IMAGE)["spec"]["template"]["spec"]


def everything() -> list[dict[str, Any]]:
    plan = topology()
    node = plan.members[0]
    return [
        validator_pod(plan, node, IMAGE, claim="aurora-0"),
        volume_claim(plan, node, name="aurora-0"),
        gateway_deployment(plan, IMAGE),
        network.peers_service(plan),
        network.gateway_service(plan),
        network.disruption_budget(plan) or {},
        *network.network_policies(plan, "operators"),
        *access.node_access(plan, node),
        *access.leases(plan, last_term=3),
        files.node_config_map(plan, {"aurora-0": "12D3"}),
        files.genesis_config_map(plan.world.metadata, b"genesis"),
        files.membership_config_map(plan.world.metadata, {"directory.cbor": b"d"}),
        files.identity_secret(plan.world.metadata, "aurora-0", SIGNER),
        files.key_secret(plan.world.metadata, "aurora-0", 1, SIGNER),
        files.key_folder_secret(plan.world.metadata, "aurora-0", {1: SIGNER}, SIGNER.key_id),
    ]


@pytest.mark.parametrize("obj", everything(), ids=lambda obj: f"{obj['kind']}-{obj['metadata']['name']}")
def test_every_object_is_valid_by_the_schema_of_kubernetes(obj: dict[str, Any]) -> None:
    validate(obj, KUBERNETES, strict=True)


@pytest.mark.parametrize(("name", "spec"), list(pods()))
def test_pods_meet_the_restricted_pod_security_standard(name: str, spec: dict[str, Any]) -> None:
    assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & spec.keys(), name
    allowed = {"configMap", "secret", "projected", "emptyDir", "persistentVolumeClaim"}
    assert all(len((volume.keys() - {"name"}) & allowed) == 1 for volume in spec["volumes"])
    pod = spec["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == pod["runAsGroup"] == pod["fsGroup"] == 10001
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["privileged"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["runAsNonRoot"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert all("hostPort" not in port for port in container.get("ports", []))
        assert {"requests", "limits"} <= container["resources"].keys()
        assert container["imagePullPolicy"] == "IfNotPresent"


@pytest.mark.parametrize(("name", "spec"), list(pods()))
def test_pods_have_probes_a_grace_period_and_no_token_that_they_do_not_need(name: str, spec: dict[str, Any]) -> None:
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["terminationGracePeriodSeconds"] >= 15
    container = spec["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 120
    assert ("api-access" in [volume["name"] for volume in spec["volumes"]]) == (name == "validator")


@pytest.mark.parametrize(("name", "spec"), list(pods()))
def test_every_mount_has_its_volume_and_only_data_and_tmp_can_be_written(name: str, spec: dict[str, Any]) -> None:
    volumes = [volume["name"] for volume in spec["volumes"]]
    assert len(volumes) == len(dict.fromkeys(volumes)), name
    for mount in spec["containers"][0]["volumeMounts"]:
        assert mount["name"] in volumes
        assert mount.get("readOnly", False) == (mount["mountPath"] not in ("/data", "/tmp"))


def test_no_secret_material_is_in_arguments_environment_annotations_or_config_maps() -> None:
    pem = SIGNER.pem().decode().splitlines()[1]
    for obj in everything():
        if obj["kind"] != "Secret":
            assert pem not in str(obj)


def test_a_node_may_only_renew_two_leases_by_name() -> None:
    plan = topology()
    _, role, binding = access.node_access(plan, plan.members[2])
    assert role["rules"] == [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["aurora-sequencer", "aurora-2"],
            "verbs": ["get", "watch", "update", "patch"],
        }
    ]
    assert binding["subjects"][0]["name"] == "aurora-2"


def test_the_writers_lease_continues_with_the_last_term() -> None:
    assert access.leases(topology(), last_term=0)[0]["spec"] == {}
    assert access.leases(topology(), last_term=7)[0]["spec"] == {"leaseTransitions": 6}


def test_the_template_reaches_the_pod_and_cannot_take_our_labels() -> None:
    template = {
        "template": {
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "priorityClassName": "high",
            "podLabels": {"team": "a"},
            "podAnnotations": {"note": "b"},
            "resources": {"requests": {"cpu": "1"}},
            "storage": {"size": "7Gi", "storageClassName": "fast"},
        }
    }
    plan = topology(template=template)
    node = plan.members[0]
    pod = validator_pod(plan, node, IMAGE, claim="c")
    assert pod["metadata"]["labels"] == {"team": "a", **labels("aurora", "validator", "aurora-0")}
    assert pod["metadata"]["annotations"]["note"] == "b"
    spec = pod["spec"]
    assert (spec["nodeSelector"], spec["priorityClassName"]) == ({"disk": "fast"}, "high")
    assert spec["topologySpreadConstraints"][0]["topologyKey"] == "zone"
    assert spec["tolerations"][0]["key"] == "dedicated"
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert spec["containers"][0]["resources"] == {"requests": {"cpu": "1"}}
    claim = volume_claim(plan, node, name="c")["spec"]
    assert (claim["resources"]["requests"]["storage"], claim["storageClassName"]) == ("7Gi", "fast")


def test_the_template_hash_follows_what_a_person_changes_and_nothing_else() -> None:
    plan, node = topology(), topology().members[0]
    same = template_hash(plan, node, IMAGE)
    assert template_hash(topology(5), node, IMAGE) == same
    assert template_hash(plan, node, Image(reference="node:2")) != same
    assert template_hash(topology(image={"tag": "9"}), node, IMAGE) != same
    assert template_hash(topology(sequencer={"leaseDuration": "20s"}), node, IMAGE) != same


def test_volumes_outlive_the_world_unless_it_says_otherwise() -> None:
    node = topology().members[0]
    assert "ownerReferences" not in volume_claim(topology(), node, name="c")["metadata"]
    deleted = volume_claim(topology(deletionPolicy="Delete"), node, name="c")
    assert deleted["metadata"]["ownerReferences"][0]["kind"] == "World"


@pytest.mark.parametrize(("replicas", "budget"), [(1, None), (3, None), (4, 1), (7, 2)])
def test_the_disruption_budget_is_what_the_quorum_allows(replicas: int, budget: int | None) -> None:
    made = network.disruption_budget(topology(replicas))
    assert (made["spec"]["maxUnavailable"] if made else None) == budget


def test_policies_let_peers_the_operator_and_clients_in_and_can_be_switched_off() -> None:
    validators, gateway = network.network_policies(topology(), "operators")
    ports = [rule["ports"] for rule in validators["spec"]["ingress"]]
    assert [[port["port"] for port in row] for row in ports] == [[4001, 8080], [8080]]
    operator = validators["spec"]["ingress"][1]["from"][0]
    assert operator["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "operators"}}
    assert {"ports": [{"port": 8080, "protocol": "TCP"}]} in gateway["spec"]["ingress"]
    assert network.network_policies(topology(network={"networkPolicy": False}), "operators") == []


def test_a_service_finds_its_pods_before_they_are_ready() -> None:
    service = network.peers_service(topology())["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    pod = validator_pod(topology(), topology().members[0], IMAGE, claim="c")
    assert service["selector"].items() <= pod["metadata"]["labels"].items()
    assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("aurora-0", "aurora-peers")


def test_the_gateway_makes_its_own_identity_and_holds_no_key() -> None:
    deployment = gateway_deployment(topology(gateway={"replicas": 3}), IMAGE)
    spec = deployment["spec"]["template"]["spec"]
    assert deployment["spec"]["replicas"] == 3
    assert spec["initContainers"][0]["args"] == ["keys", "generate", "--force", "/data/identity.pem"]
    assert all("secret" not in volume for volume in spec["volumes"])
    assert deployment["spec"]["selector"]["matchLabels"] == selector("aurora", "gateway")


def test_a_hand_made_validator_with_an_id_of_its_own_is_reached_by_its_pod() -> None:
    mine = validator("hand", validatorId="handmade", identity={"secretRef": {"name": "mine", "key": "id"}})
    plan = plan_world(world(), [mine], [])
    node = next(node for node in plan.nodes if node.name == "hand")
    pod = validator_pod(plan, node, IMAGE, claim="hand")
    identity = next(volume for volume in pod["spec"]["volumes"] if volume["name"] == "identity")
    assert identity["secret"]["secretName"] == "mine"
    assert identity["secret"]["items"] == [{"key": "id", "path": "identity.pem"}]
    assert files.validator_config(plan, node).node_id == "handmade"
    assert '"hand.aurora-peers.default.svc:4001"' in files.peers_document(plan, {"hand": "12D3"})

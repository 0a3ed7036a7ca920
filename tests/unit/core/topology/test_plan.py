"""The plan of a world says which nodes run, which keys sign and what may be lost."""

from typing import Any

import pytest

from agentworld_core.ordering.rate import RateLimit
from agentworld_core.topology.effects import fixed_by_genesis
from agentworld_core.topology.plan import IMPLIED_LABEL, is_surplus, node_settings, plan_world
from agentworld_core.topology.pod_template import default_resources
from agentworld_core.topology.quorum import quorum_facts
from agentworld_core.topology.resources import MembershipKey, Validator
from tests.unit.core.topology.manifests import key, validator, world

IMPLIED = {"labels": {IMPLIED_LABEL: "true"}}


def test_replicas_imply_validators_a_key_for_each_and_a_governance_key() -> None:
    plan = plan_world(world(validators={"replicas": 4}), [], [])
    assert [item.name for item in plan.implied if isinstance(item, Validator)] == [f"aurora-{n}" for n in range(4)]
    implied_keys = [(item.name, item.spec.purpose) for item in plan.implied if isinstance(item, MembershipKey)]
    assert implied_keys == [("aurora-governance", "Governance"), *((f"aurora-{n}", "Validator") for n in range(4))]
    assert [(node.name, node.kind) for node in plan.nodes][-1] == ("aurora-gateway-0", "gateway")
    assert [node.key for node in plan.members] == [f"aurora-{n}" for n in range(4)]
    assert plan.members[0].roles == ("validator", "storage", "sequencer")
    assert (plan.quorum.needed_weight, plan.quorum.tolerates) == (3, 1)
    assert (plan.problems, plan.warnings) == ((), ())


def test_replicas_are_in_order_of_their_number() -> None:
    plan = plan_world(world(validators={"replicas": 12}), [], [])
    assert [node.name for node in plan.members] == [f"aurora-{n}" for n in range(12)]


def test_the_template_of_the_world_reaches_its_replicas() -> None:
    replicas = {"replicas": 1, "template": {"storage": {"size": "7Gi"}, "nodeSelector": {"disk": "fast"}}}
    template = plan_world(world(validators=replicas), [], []).validators[0].spec.template
    assert template.to_manifest() == {
        "storage": {"size": "7Gi"},
        "nodeSelector": {"disk": "fast"},
        "resources": default_resources(),
    }


def test_a_changed_template_reaches_replicas_that_exist_and_keeps_a_persons_suspend() -> None:
    existing = validator("aurora-0", IMPLIED, storage={"size": "1Gi"}, suspend=True)
    plan = plan_world(world(validators={"replicas": 1, "template": {"storage": {"size": "2Gi"}}}), [existing], [])
    assert plan.validators[0].spec.template.storage_size == "2Gi"
    assert plan.validators[0].spec.suspend


def test_hand_made_validators_count_and_stay_as_they_are() -> None:
    mine = validator("hand", weight=3, validatorId="handmade")
    plan = plan_world(world(validators={"replicas": 0}), [mine, validator("other", world="elsewhere")], [])
    assert [(node.name, node.node_id, node.weight) for node in plan.members] == [("hand", "handmade", 3)]
    assert [item.name for item in plan.implied] == ["aurora-governance", "hand"]


def test_scaling_down_makes_the_last_replicas_leave() -> None:
    existing = [validator(f"aurora-{n}", IMPLIED) for n in range(5)]
    plan = plan_world(world(validators={"replicas": 4}), existing, [])
    assert [node.name for node in plan.nodes if node.leaving] == ["aurora-4"]
    assert plan.quorum.members == 4
    assert not is_surplus(plan.world, validator("aurora-9"))


@pytest.mark.parametrize(
    "leaver", [validator("v", drain=True), validator("v", {"deletionTimestamp": "2026-01-01T00:00:00Z"})]
)
def test_a_drained_or_deleted_validator_leaves(leaver: Validator) -> None:
    plan = plan_world(world(validators={"replicas": 1}), [leaver], [])
    assert [node.name for node in plan.members] == ["aurora-0"]


def test_a_key_that_names_a_validator_takes_the_place_of_the_implied_one() -> None:
    plan = plan_world(world(), [], [key("mine", validator="aurora-0"), key("aurora-0", IMPLIED, validator="aurora-0")])
    assert plan.members[0].key == "mine"
    assert [item.name for item in plan.implied] == ["aurora-0", "aurora-governance"]


@pytest.mark.parametrize(
    ("problem", "spec", "validators", "keys"),
    [
        ("spec.validators.replicas", {"validators": {"replicas": 0}}, [], []),
        ("spec.governance.keys", {"governance": {"keys": ["root"]}}, [], []),
        ("spec.governance.keys", {"governance": {"keys": ["k"]}}, [], [key("k", validator="aurora-0")]),
        ("spec.validator", {}, [], [key("a", validator="aurora-0"), key("b", validator="aurora-0")]),
        ("spec.validatorId", {}, [validator("v", validatorId="aurora-0")], []),
        ("spec.validatorId", {}, [validator("aurora-gateway-0")], []),
        ("metadata.name", {}, [], [key("aurora-0", validator="elsewhere")]),
        ("metadata.name", {}, [validator("aurora-sequencer")], []),
        ("metadata.name", {}, [validator("aurora-replay-x")], []),
    ],
)
def test_what_keeps_a_world_from_starting_is_a_problem_with_a_remedy(
    problem: str, spec: dict[str, object], validators: list[Validator], keys: list[MembershipKey]
) -> None:
    plan = plan_world(world(**spec), validators, keys)
    assert [item.field for item in plan.problems] == [problem]
    assert plan.problems[0].remedy


def test_a_world_that_tolerates_no_fault_and_a_key_of_nobody_are_warnings() -> None:
    plan = plan_world(world(), [], [key("k", validator="nobody")])
    assert plan.problems == ()
    assert "tolerate no Byzantine fault" in plan.warnings[0]
    assert "nobody" in plan.warnings[1]


@pytest.mark.box("29.1", "weights")
@pytest.mark.parametrize(
    ("weights", "model", "needed", "tolerates"),
    [
        ([], "Byzantine", 1, 0),
        ([1], "Byzantine", 1, 0),
        ([1] * 3, "Byzantine", 3, 0),
        ([1] * 4, "Byzantine", 3, 1),
        ([1] * 7, "Byzantine", 5, 2),
        ([1] * 3, "Crash", 2, 1),
        ([1] * 4, "Crash", 3, 1),
        ([5, 1, 1, 1], "Byzantine", 6, 0),
        ([2**40] * 4, "Byzantine", 2**42 * 2 // 3 + 1, 1),
    ],
)
def test_quorum_facts(weights: list[int], model: str, needed: int, tolerates: int) -> None:
    facts = quorum_facts(weights, model)
    assert (facts.needed_weight, facts.tolerates) == (needed, tolerates)


def test_parameters_and_settings_carry_the_world_to_its_nodes() -> None:
    plan = plan_world(
        world(
            consensus={"blockInterval": "250ms", "maxActions": 9},
            sequencer={"leaseDuration": "6s", "renewDeadline": "4s", "retryPeriod": "1s"},
            mempool={"maxActions": 50, "maxPerActor": 5, "expiry": "1m30s", "verificationWorkers": 3},
            storage={"retainSnapshots": 3, "maxBlobBytes": 2**30},
        ),
        [],
        [],
    )
    assert (plan.parameters.block_interval_ms, plan.parameters.max_batch_actions) == (250, 9)
    settings = node_settings(plan, plan.members[0])
    assert (settings.world_id, settings.node_id, settings.mempool_max_per_actor) == ("aurora", "aurora-0", 5)
    assert (settings.mempool_max_per_source, settings.mempool_expiry_ms, settings.verification_workers) == (
        25,
        90_000,
        3,
    )
    assert (settings.retain_snapshots, settings.max_blob_bytes) == (3, 2**30)
    assert (settings.lease.duration_ms, settings.lease.renew_deadline_ms, settings.lease.retry_period_ms) == (
        6_000,
        4_000,
        1_000,
    )


@pytest.mark.box("S5.1", "source-limit")
@pytest.mark.parametrize(("said", "limit"), [({}, 5_000), ({"maxPerSource": 0}, 0), ({"maxPerSource": 7}, 7)])
def test_a_source_has_half_of_the_places_unless_the_world_says_otherwise(said: dict[str, int], limit: int) -> None:
    plan = plan_world(world(mempool=said), [], [])
    assert node_settings(plan, plan.members[0]).mempool_max_per_source == limit


@pytest.mark.box("S7.1", "rate")
@pytest.mark.parametrize(
    ("gateway", "limit"),
    [
        ({}, None),
        ({"rateLimit": None}, None),
        ({"rateLimit": {"requestsPerSecond": 7}}, RateLimit(per_second=7, burst=7)),
        ({"rateLimit": {"requestsPerSecond": 7, "burst": 20}}, RateLimit(per_second=7, burst=20)),
    ],
)
def test_the_rate_limit_of_the_world_is_that_of_every_node_that_clients_may_reach(
    gateway: dict[str, Any], limit: RateLimit | None
) -> None:
    plan = plan_world(world(gateway={"replicas": 2, **gateway}), [], [])
    assert [node_settings(plan, node).rate_limit for node in plan.nodes] == [limit] * len(plan.nodes)
    assert {node.kind for node in plan.nodes} == {"validator", "gateway"}


def test_what_the_genesis_has_fixed_is_named() -> None:
    before = plan_world(world(), [], []).parameters
    after = plan_world(world(consensus={"maxActions": 9}, storage={"snapshotInterval": 7}), [], []).parameters
    assert fixed_by_genesis(before, before) == []
    assert fixed_by_genesis(after, before) == ["spec.consensus.maxActions", "spec.storage.snapshotInterval"]

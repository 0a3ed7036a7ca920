"""How modules get into a running world: artifacts, proposals, and who may do what (runtime spec 3.5 and 11)."""

from __future__ import annotations

from typing import Any

import pytest

from agentworld_core.hashing import content_id
from agentworld_core.world.kernel import StepInput, replay_events, step
from agentworld_core.world.modules import artifacts, governance
from agentworld_core.world.modules.artifacts import MAX_PIECE_BYTES, read_artifact, split_artifact
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.governance import Governance
from agentworld_core.world.modules.records import (
    ActiveRecord,
    ArtifactRecord,
    ArtifactTotal,
    RegistryRecord,
    active_key,
    all_proposals,
    artifact_key,
    read_manifest,
    read_proposal,
    registry_key,
)
from agentworld_core.world.modules.shadow import REPORT_CODES
from agentworld_core.world.state import read
from tests.unit.core.world.agents import signer
from tests.unit.core.world.modules.governed import APPROVER, AUTHOR, LIMITS, GovernedWorld, kinds, manifest, payload_of

PATCH = {"patch": [{"set": {"path": ["rules", "gravity"], "value": 10}}]}


def nothing(_given):
    return {}


def a_world(module: str = "") -> tuple[GovernedWorld, str]:
    """A world, and the artifact of a module that waits on the ledger."""
    world = GovernedWorld()
    artifact = world.sandbox.add(b"code", nothing)
    assert world.put(b"code") == ["ok"]
    if module:
        world.decide(
            {"register": [manifest(module, artifact)], "activate": [{"module_id": module, "version": "1.0.0"}]}
        )
    return world, artifact


def active(world, module_id):
    record = read(world.tree, active_key(module_id), ActiveRecord)
    return None if record is None else record.version


@pytest.mark.box("S16.2", "equal")
@pytest.mark.box("S16.1", "on-the-ledger")
@pytest.mark.box("S1.4", "content-id")
def test_s16_an_artifact_comes_in_pieces_and_is_checked_as_a_whole():
    world = GovernedWorld()
    code = bytes(range(256)) * 400
    pieces: list[dict[str, Any]] = split_artifact(code)
    assert [len(piece["data"]) for piece in pieces] == [
        MAX_PIECE_BYTES,
        MAX_PIECE_BYTES,
        len(code) - 2 * MAX_PIECE_BYTES,
    ]
    for piece in pieces:
        assert read_artifact(world.tree, content_id(code)) is None
        assert world.do(AUTHOR, "artifact.put", piece).ok
    assert read_artifact(world.tree, content_id(code)) == code
    assert read(world.tree, b"artifacts", ArtifactTotal) == ArtifactTotal(len(code))
    assert world.do(AUTHOR, "artifact.put", pieces[0]).code == "already_exists"
    assert replay_events(world.first, world.events) == world.tree
    assert world.do(AUTHOR, "artifact.remove", {"artifact": content_id(code)}).ok
    assert read(world.tree, b"artifacts", ArtifactTotal) == ArtifactTotal(0)
    assert list(world.tree.items(b"artifact/")) == []
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S16.1", "on-the-ledger")
@pytest.mark.parametrize("pieces", [1, 3])
def test_pieces_that_do_not_hash_to_the_artifact_are_discarded(pieces):
    world = GovernedWorld()
    wrong = "0" * 64
    puts = [{"artifact": wrong, "index": n, "count": pieces, "data": b"x"} for n in range(pieces)]
    codes = world.codes(*[world.signed(AUTHOR, "artifact.put", put) for put in puts])
    assert codes == ["ok"] * (pieces - 1) + ["hash_mismatch"]
    assert list(world.tree.items(b"artifact/")) == []
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S16.1", "on-the-ledger")
def test_pieces_out_of_order_or_beyond_the_limits_are_refused(monkeypatch):
    world = GovernedWorld()
    good = {"artifact": "ab" * 32, "index": 0, "count": 2, "data": b"x"}

    def put(**fields):
        return world.do(AUTHOR, "artifact.put", {**good, **fields}).code

    assert put(index=1) == put(index=2) == put(count=0) == put(data=b"") == put(artifact="b3") == "invalid_field"
    assert put(data=bytes(MAX_PIECE_BYTES + 1)) == "too_large"
    assert put() == ""
    assert put() == "already_exists"
    assert put(index=1, count=3) == "invalid_field"
    monkeypatch.setattr(artifacts, "MAX_ARTIFACT_BYTES", 1)
    assert put(index=1) == "too_large"
    monkeypatch.undo()
    monkeypatch.setattr(artifacts, "MAX_TOTAL_BYTES", 1)
    assert put(index=1) == "too_large"


@pytest.mark.box("S16.1", "needed")
def test_an_artifact_that_a_registered_module_needs_stays():
    world, artifact = a_world("gate")
    assert world.do(AUTHOR, "artifact.remove", {"artifact": artifact}).code == "invalid_state"
    assert read(world.tree, artifact_key(artifact), ArtifactRecord) == ArtifactRecord(1, 1, 4, 1)
    assert world.do(AUTHOR, "artifact.remove", {"artifact": "0" * 64}).code == "not_found"


@pytest.mark.box("S18.2", "active", "order")
@pytest.mark.box("S0.3", "registry")
def test_s18_the_happy_path_leaves_the_version_active():
    world, artifact = a_world()
    document = manifest("gate", artifact)
    changes = {"register": [document], "activate": [{"module_id": "gate", "version": "1.0.0"}]}
    number = world.propose(changes)
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    assert world.report(number)["changes"] == ["registers gate@1.0.0", "activates gate@1.0.0"]
    assert world.do(APPROVER, "proposal.approve", {"proposal": number}).ok
    result = world.step(world.signed(APPROVER, "proposal.apply", {"proposal": number}))
    assert kinds(result) == ["proposal.applied", "module.registered", "module.activated", "manifest.updated"]
    assert (result.receipts[0].first_event_id, result.receipts[0].event_count) == (result.events[1].event_id, 4)
    assert active(world, "gate") == "1.0.0"
    registered = read(world.tree, registry_key("gate", "1.0.0"), RegistryRecord)
    assert registered is not None
    assert (registered.manifest, registered.proposal) == (document, number)
    record = read_proposal(world.tree, number)
    assert record is not None
    assert (record.state, record.author) == ("applied", AUTHOR)
    assert record.approvals == [{"approver": APPROVER, "key_id": signer(APPROVER).key_id}]
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S18.2", "same-hash")
def test_without_changes_of_modules_the_hash_of_shadow_and_application_are_the_same():
    world = GovernedWorld()
    number = world.decide(PATCH)
    applied: Any = next(event.payload for event in world.events if event.kind == "proposal.applied")
    assert world.report(number)["manifest_hash"] == applied["manifest_hash"] == read_manifest(world.tree).hash
    assert read_manifest(world.tree).content == {"rules": {"gravity": 10}}
    assert read_manifest(world.tree).version == 2


@pytest.mark.box("S18.2", "upgrade")
@pytest.mark.box("S0.3", "registry")
def test_d19_upgrade_and_activation_are_one_step():
    world, artifact = a_world("gate")
    newer = manifest("gate", artifact, version="2.0.0")
    upgrade = {"module_id": "gate", "from_version": "1.0.0", "to_version": "2.0.0", "wasm_hash": artifact}
    only = world.decide({"upgrade": [{**upgrade, "manifest": newer}]})
    assert active(world, "gate") == "1.0.0"  # an upgrade by itself puts nothing in force
    assert "not put in force" in world.report(only)["warnings"][0]["message"]
    newest = manifest("gate", artifact, version="3.0.0")
    upgrade |= {"to_version": "3.0.0"}
    both = {"upgrade": [{**upgrade, "manifest": newest}], "activate": [{"module_id": "gate", "version": "3.0.0"}]}
    number = world.decide(both)
    assert active(world, "gate") == "3.0.0"
    assert "activates gate@3.0.0 instead of 1.0.0" in world.report(number)["changes"]
    kept = [read(world.tree, registry_key("gate", version), RegistryRecord) for version in ("1.0.0", "2.0.0", "3.0.0")]
    assert [record and record.manifest["version"] for record in kept] == ["1.0.0", "2.0.0", "3.0.0"]
    assert {record and record.manifest["wasm_hash"] for record in kept} == {artifact}
    world.decide({"deactivate": [{"module_id": "gate", "reason": "done"}]})
    assert active(world, "gate") is None
    assert read_manifest(world.tree).active == 0
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S18.1", "separation")
def test_d20_author_and_approver_differ_and_the_threshold_says_how_many_keys():
    world = GovernedWorld()
    assert world.codes(world.signed("twin", "agent.register", {}, key=AUTHOR)) == ["ok"]
    number = world.propose(PATCH)
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    ballot = {"proposal": number}
    assert world.do(AUTHOR, "proposal.approve", ballot).code == "unauthorized"
    world.governance = Governance(world.governance.key_ids, 2)
    result = world.step(world.signed("twin", "proposal.approve", ballot, key=AUTHOR))
    assert payload_of(result, "proposal.approved")["settled"] is False, "one key counts once, whoever signs with it"
    result = world.step(world.signed(APPROVER, "proposal.approve", ballot))
    assert payload_of(result, "proposal.approved")["settled"] is True
    alone = GovernedWorld()  # both keys govern, as while one takes the place of the other, and one is enough
    assert alone.codes(alone.signed("twin", "agent.register", {}, key=AUTHOR)) == ["ok"]
    number = alone.propose(PATCH)
    assert alone.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    assert alone.do(AUTHOR, "proposal.approve", {"proposal": number}).code == "unauthorized"
    assert alone.codes(alone.signed("twin", "proposal.approve", {"proposal": number}, key=AUTHOR)) == ["ok"]


@pytest.mark.box("S18.1", "separation")
def test_as_many_keys_must_sign_as_the_governance_threshold_says():
    world = GovernedWorld(keys=("one", "two", "three"))
    world.governance = Governance(world.governance.key_ids, 3)
    base = {"base": read_manifest(world.tree).hash, "changes": PATCH}
    assert world.do("one", "proposal.create", base).ok
    assert world.do("one", "proposal.shadow", {"proposal": 1}).ok
    result = world.step(world.signed("two", "proposal.approve", {"proposal": 1}))
    assert payload_of(result, "proposal.approved")["settled"] is False
    assert world.do("two", "proposal.approve", {"proposal": 1}).code == "unauthorized"
    assert world.do("one", "proposal.apply", {"proposal": 1}).code == "invalid_state"
    result = world.step(world.signed("three", "proposal.approve", {"proposal": 1}))
    assert payload_of(result, "proposal.approved")["settled"] is True
    full = world.governance
    world.governance = Governance((*full.key_ids[:2], "f" * 32), 3)
    refused = world.do("one", "proposal.apply", {"proposal": 1})
    assert (refused.code, refused.message) == ("unauthorized", "keys that signed for this proposal govern no longer")
    world.governance = full
    assert world.do("one", "proposal.apply", {"proposal": 1}).ok


@pytest.mark.box("S18.1", "separation")
@pytest.mark.parametrize("kind", sorted(governance.GOVERNANCE_KINDS - governance.BROUGHT_BY_ANYBODY))
def test_nothing_is_governed_without_a_governance_key(kind):
    world, artifact = a_world()
    world.enter("eve")
    number = {"proposal": 1}
    payloads: dict[str, dict[str, Any]] = {
        "artifact.put": {"artifact": artifact, "index": 0, "count": 1, "data": b"code"},
        "artifact.remove": {"artifact": artifact},
        "proposal.create": {"base": read_manifest(world.tree).hash, "changes": PATCH},
        "proposal.reject": {**number, "reason": ""},
        "capability.grant": {"capability": "post", "kinds": ["*"], "expires_tick": 0},
        "capability.revoke": {"capability": "post"},
        "policy.set": {"rules": []},
        "resource.grant": {"agent_id": "eve", "kind": "power", "amount": 1},
    }
    before = {key: value for key, value in world.tree.items() if not key.startswith((b"meta", b"nonce/"))}
    receipt = world.do("eve", kind, payloads.get(kind, number))
    assert (receipt.code, receipt.message) == ("unauthorized", f"no governance key signs {kind}")
    after = {key: value for key, value in world.tree.items() if not key.startswith((b"meta", b"nonce/"))}
    assert after == before


@pytest.mark.box("S18.1", "base")
def test_the_base_must_be_the_manifest_in_force_when_made_shadowed_and_applied():
    world = GovernedWorld()
    stale = {"base": "0" * 64, "changes": PATCH}
    assert world.do(AUTHOR, "proposal.create", stale).code == "stale_base"
    first, second, third = world.propose(PATCH), world.propose(PATCH), world.propose(PATCH)
    for number in (first, second):
        assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
        assert world.do(APPROVER, "proposal.approve", {"proposal": number}).ok
    assert world.do(AUTHOR, "proposal.apply", {"proposal": first}).ok
    assert world.do(AUTHOR, "proposal.apply", {"proposal": second}).code == "stale_base"
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": third}).code == "stale_base"
    assert world.do(AUTHOR, "proposal.reject", {"proposal": second, "reason": "overtaken"}).ok


@pytest.mark.box("S18.1", "state-first")
def test_every_step_needs_the_state_before_it():
    world = GovernedWorld()
    number = {"proposal": world.propose(PATCH)}

    def code(kind, actor=AUTHOR, **fields):
        return world.do(actor, f"proposal.{kind}", {**number, **fields}).code

    assert [code("approve", APPROVER), code("apply")] == ["invalid_state"] * 2
    assert code("shadow") == ""
    assert [code("shadow"), code("apply")] == ["invalid_state"] * 2
    assert code("approve", APPROVER) == ""
    assert [code("shadow"), code("approve", APPROVER)] == ["invalid_state"] * 2
    assert code("reject", reason="no") == ""
    assert [code("shadow"), code("apply"), code("reject", reason="no")] == ["invalid_state"] * 3
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": 7}).code == "not_found"
    record = read_proposal(world.tree, 1)
    assert record is not None
    assert (record.state, record.reason) == ("rejected", "no")
    assert world.propose(PATCH) == 2
    assert [(found, item.state) for found, item in all_proposals(world.tree)] == [(1, "rejected"), (2, "proposed")]


def test_open_proposals_are_bounded_and_closing_one_makes_room(monkeypatch):
    monkeypatch.setattr(governance, "MAX_OPEN_PROPOSALS", 1)
    world = GovernedWorld()
    number = world.propose(PATCH)
    base = read_manifest(world.tree).hash
    assert world.do(AUTHOR, "proposal.create", {"base": base, "changes": PATCH}).code == "invalid_state"
    assert world.do(AUTHOR, "proposal.reject", {"proposal": number, "reason": ""}).ok
    assert world.propose(PATCH) == number + 1


def with_(artifact, **fields):
    return {"register": [manifest("gate", artifact, **fields)]}


FINDINGS = {
    "missing artifact": (lambda a: with_("0" * 64), "ARTIFACT_MISSING"),
    "no such export in the code": (lambda a: with_(a, exports=["call", "missing"]), "ABI_INCOMPATIBLE"),
    "another interface": (lambda a: with_(a, interface_version="wasm-2"), "ABI_INCOMPATIBLE"),
    "no such capability": (lambda a: with_(a, required_caps=["post"]), "CAPS_DENIED"),
    "above the maximum": (lambda a: with_(a, limits={**LIMITS, "max_gas": 10**9}), "LIMITS_EXCEEDED"),
    "a filter with a regex": (
        lambda a: with_(a, subscriptions=[{"action_kinds": ["*"], "filters": [{"path": "/kind", "re": ".*"}]}]),
        "INVALID_MANIFEST",
    ),
    "entry of another kind": (lambda a: with_(a, exports=["reduce"]), "INVALID_MANIFEST"),
    "version that is there": (
        lambda a: {"register": [manifest("old", a)]},
        "VERSION_CONFLICT",
    ),
    "activation of nothing": (lambda a: {"activate": [{"module_id": "gate", "version": "1"}]}, "VERSION_CONFLICT"),
    "deactivation of nothing": (lambda a: {"deactivate": [{"module_id": "gate", "reason": ""}]}, "VERSION_CONFLICT"),
    "upgrade from nothing": (
        lambda a: {
            "upgrade": [
                {
                    "module_id": "gate", "from_version": "0", "to_version": "1.0.0", "wasm_hash": a,
                    "manifest": manifest("gate", a),
                }
            ]
        },
        "VERSION_CONFLICT",
    ),
    "upgrade from a version that is not active": (
        lambda a: {
            "upgrade": [
                {
                    "module_id": "old", "from_version": "0.9.0", "to_version": "2", "wasm_hash": a,
                    "manifest": manifest("old", a, version="2"),
                }
            ]
        },
        "VERSION_CONFLICT",
    ),
    "upgrade with the manifest of another version": (
        lambda a: {
            "upgrade": [
                {
                    "module_id": "old", "from_version": "1.0.0", "to_version": "2", "wasm_hash": a,
                    "manifest": manifest("old", a, version="3"),
                }
            ]
        },
        "VERSION_CONFLICT",
    ),
    "a capability that has expired": (lambda a: with_(a, required_caps=["stale"]), "CAPS_DENIED"),
    "upgrade to other code": (
        lambda a: {
            "upgrade": [
                {
                    "module_id": "old", "from_version": "1.0.0", "to_version": "2", "wasm_hash": "0" * 64,
                    "manifest": manifest("old", a, version="2"),
                }
            ]
        },
        "HASH_MISMATCH",
    ),
    "removal of nothing": (lambda a: {"patch": [{"remove": {"path": ["x"]}}]}, "INVALID_MANIFEST"),
    "a version that is not newer": (lambda a: {**PATCH, "new_version": 3}, "INVALID_MANIFEST"),
}  # fmt: skip


@pytest.mark.box("S18.2", "missing")
@pytest.mark.box("S18.1", "missing", "report")
@pytest.mark.parametrize("what", FINDINGS)
def test_d18_the_shadow_says_what_keeps_changes_out(what):
    make, code = FINDINGS[what]
    world, artifact = a_world("old")
    world.decide({"register": [manifest("old", artifact, version="0.9.0")]})
    assert world.do(AUTHOR, "capability.grant", {"capability": "stale", "kinds": ["*"], "expires_tick": 1}).ok
    number = world.propose(make(artifact))
    receipt = world.do(AUTHOR, "proposal.shadow", {"proposal": number})
    report = world.report(number)
    assert receipt.code == "shadow_failed"
    assert report["status"] == "failed"
    assert [error["code"] for error in report["errors"]] == [code]
    assert receipt.message.startswith(code)
    assert code in REPORT_CODES
    record = read_proposal(world.tree, number)
    assert record is not None
    assert record.state == "proposed"
    assert replay_events(world.first, world.events) == world.tree


@pytest.mark.box("S18.2", "missing")
@pytest.mark.box("S18.1", "missing")
def test_s18_a_failed_shadow_may_be_tried_again_once_the_artifact_has_come():
    world = GovernedWorld()
    artifact = world.sandbox.add(b"late", nothing)
    number = world.propose(with_(artifact))
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).code == "shadow_failed"
    assert world.put(b"late") == ["ok"]
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok


@pytest.mark.box("S18.1", "state-first")
def test_the_state_of_a_proposal_is_looked_at_before_its_artifacts():
    world = GovernedWorld()
    number = {"proposal": world.propose(with_("0" * 64))}
    assert world.do(AUTHOR, "proposal.apply", number).code == "invalid_state"
    assert world.do(AUTHOR, "proposal.reject", {**number, "reason": "nobody has the code"}).ok
    assert world.do(AUTHOR, "proposal.shadow", number).code == "invalid_state"
    assert world.do(AUTHOR, "proposal.apply", number).code == "invalid_state"


@pytest.mark.box("S18.1", "report")
def test_the_report_warns_of_modules_that_would_never_run():
    world, artifact = a_world()
    number = world.propose(with_(artifact, limits={}, subscriptions=[]))
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    warnings = world.report(number)["warnings"]
    assert [warning["path"] for warning in warnings] == ["changes.register.gate"] * 2


@pytest.mark.box("S18.1", "again")
def test_s18_an_artifact_removed_before_application_keeps_the_proposal_out():
    world, artifact = a_world()
    number = world.propose(with_(artifact))
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    assert world.do(APPROVER, "proposal.approve", {"proposal": number}).ok
    assert world.do(AUTHOR, "artifact.remove", {"artifact": artifact}).ok
    assert world.do(AUTHOR, "proposal.apply", {"proposal": number}).code == "shadow_failed"


def test_code_is_never_judged_without_a_sandbox():
    world, artifact = a_world()
    number = world.propose(with_(artifact))
    shadow = world.signed(AUTHOR, "proposal.shadow", {"proposal": number})
    given = StepInput(height=9, time_ms=9_000, actions=[shadow], governance=world.governance)
    with pytest.raises(SandboxMissing):
        step(world.tree, given)


def test_governance_is_not_judged_by_rules_so_that_a_bad_one_can_be_removed():
    world = GovernedWorld()

    def deny(given):
        decision = {"action_id": given["action"]["action_id"], "verdict": "deny"}
        return {"emits": [{"kind": "rule.decision", "payload": decision}]}

    world.install("wall", deny, role="rule", subscriptions=[{"action_kinds": ["*"]}])
    assert world.codes(world.signed("ada", "agent.register", {})) == ["denied"]
    world.decide({"deactivate": [{"module_id": "wall", "reason": "nobody gets in"}]})
    assert world.codes(world.signed("ada", "agent.register", {})) == ["ok"]


@pytest.mark.box("S18.2", "active")
def test_changes_of_modules_count_from_the_next_step():
    world, artifact = a_world()
    world.enter("ada")
    number = world.propose(
        {"register": [manifest("gate", artifact)], "activate": [{"module_id": "gate", "version": "1.0.0"}]}
    )
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": number}).ok
    assert world.do(APPROVER, "proposal.approve", {"proposal": number}).ok
    apply = world.signed(AUTHOR, "proposal.apply", {"proposal": number})
    assert world.codes(apply, world.signed("ada", "agent.move", {"to": [1, 1]})) == ["ok", "ok"]
    assert world.sandbox.calls == []
    assert world.codes(world.signed("ada", "agent.move", {"to": [1, 2]})) == ["ok"]
    assert len(world.sandbox.calls) == 1
    remove = world.propose({"deactivate": [{"module_id": "gate", "reason": ""}]})
    assert world.do(AUTHOR, "proposal.shadow", {"proposal": remove}).ok
    assert world.do(APPROVER, "proposal.approve", {"proposal": remove}).ok
    gone = world.signed(AUTHOR, "proposal.apply", {"proposal": remove})
    assert world.codes(gone, world.signed("ada", "agent.move", {"to": [1, 3]})) == ["ok", "ok"]
    assert len(world.sandbox.calls) == 2
    world.move("ada")
    assert len(world.sandbox.calls) == 2

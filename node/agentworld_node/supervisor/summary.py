"""Turns what a pass saw into the state that people and programs are shown."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from agentworld_core.consensus.verdict import Verdict, world_verdict
from agentworld_core.membership.directory import find_member, quorum_weight
from agentworld_core.membership.rotation import Rotation
from agentworld_core.membership.steps import Done, Refused, Wait
from agentworld_core.membership.upkeep import UpkeepPlan
from agentworld_core.messages import Directory
from agentworld_core.topology.plan import NodePlan
from agentworld_node.supervisor.fleet import Fleet
from agentworld_node.supervisor.ports import LOOPBACK
from agentworld_node.supervisor.reconciler import Pass, has_left, is_suspended
from agentworld_node.supervisor.reports import NodeReport, Observer
from agentworld_node.supervisor.state import KeyState, NodeState, RevocationState, WorldState

_WAITS = {
    "NotAMember": "{names} is not a member yet",
    "DirectoryPending": "its directory epoch is on its way",
    "AnotherChangePending": "another directory epoch is on its way",
    "NodesToConfirm": "{names} must confirm the new key",
    "SignerToSwitch": "{names} must sign with the new key",
    "Overlap": "the old key stays trusted until {until}",
    "JoiningToSync": "{names} must catch up before joining",
}
_PATIENT = ("Overlap", "NotAMember")
_AT_REST = ("Voting", "Serving", "Suspended", "Stopped")


def summarize(seen: Pass, fleet: Fleet, observer: Observer, *, base: WorldState) -> WorldState:
    """Returns the state of the world after a pass; ``base`` holds what never changes."""
    spec = seen.topology.world.spec
    nodes = tuple(_node(node, seen, fleet, observer) for node in seen.topology.nodes)
    reports = observer.reachable()
    head = reports[0] if reports else NodeReport(node_id="")
    voting = [node for node in nodes if node.phase == "Voting"]
    revocations = tuple(_revocations(seen, fleet, observer))
    problems = [*_problems(seen, observer, base.genesis_hash), *seen.failures]
    progress = _progress(seen, reports)
    phase = "Running" if _has_quorum(seen.current, voting) else "Starting" if seen.current is None else "NoQuorum"
    if spec.paused or spec.hibernated:
        phase = "Hibernated" if spec.hibernated else "Paused"
    return WorldState(
        world=base.world,
        world_id=base.world_id,
        genesis_hash=base.genesis_hash,
        gateway=fleet.gateway_url,
        data=base.data,
        phase=phase,
        height=head.height,
        block_hash=head.block_hash,
        state_root=head.state_root,
        writer=head.writer,
        term=head.term,
        epoch=0 if seen.current is None else seen.current.epoch,
        pending_epoch=0 if seen.pending is None else seen.pending.epoch,
        voting=len(voting),
        members=0 if seen.current is None else len(seen.current.members),
        tolerates=seen.topology.quorum.tolerates,
        nodes=nodes,
        keys=tuple(_key(name, rotation, seen) for name, rotation in seen.plan.rotations.items()) if seen.plan else (),
        revocations=revocations,
        problems=tuple(problems),
        notes=tuple(_notes(seen.plan)),
        settled=_is_settled(seen, nodes, revocations) and not problems,
        stalled=progress is not None and progress.stalled,
        progress="" if progress is None else progress.message,
    )


def _progress(seen: Pass, reports: Sequence[NodeReport]) -> Verdict | None:
    """Returns why the world moves or does not, as its members say."""
    spec = seen.topology.world.spec
    if seen.current is None or spec.hibernated:
        return None
    members = [report for report in reports if find_member(seen.current, report.node_id) is not None]
    return world_verdict((item.height, item.node_id, item.progress) for item in members if item.progress is not None)


def _node(node: NodePlan, seen: Pass, fleet: Fleet, observer: Observer) -> NodeState:
    report = observer.reports.get(node.node_id) or NodeReport(node_id=node.node_id)
    process = fleet.process(node.node_id)
    config = next((config for config in fleet.configs if config.node_id == node.node_id), None)
    phase, message = _phase(node, seen, fleet, report)
    return NodeState(
        name=node.name,
        node_id=node.node_id,
        kind=node.kind,
        phase=phase,
        pid=None if process is None else process.pid,
        restarts=0 if process is None else max(0, process.starts - 1),
        url="" if config is None else f"http://{LOOPBACK}:{config.http_port}",
        height=report.height,
        lag=report.lag,
        state_root=report.state_root,
        epoch=report.epoch,
        active_key_id=report.active_key_id,
        message=message,
    )


def _phase(node: NodePlan, seen: Pass, fleet: Fleet, report: NodeReport) -> tuple[str, str]:
    process = fleet.process(node.node_id)
    if is_suspended(seen.topology, node):
        return "Suspended", ""
    if process is None or has_left(node, seen):
        return "Stopped", ""
    if not report.reachable:
        why = process.trouble or ("" if process.is_young else "does not answer")
        return ("Failed", f"{why}; see {fleet.log_file(node.node_id)}") if why else ("Starting", "")
    if node.leaving:
        return "Draining", ""
    if node.kind == "validator":
        return _validator_phase(node, seen.current, report)
    return ("Serving", "") if report.in_sync else ("Syncing", report.sync_reason)


def _validator_phase(node: NodePlan, current: Directory | None, report: NodeReport) -> tuple[str, str]:
    if current is None or find_member(current, node.node_id) is None:
        return "Syncing", "joins when it has caught up"
    if report.voting and report.in_sync:
        return "Voting", ""
    if not report.in_touch:
        return "Syncing", report.sync_reason
    return "Lagging", report.sync_reason or "; ".join(report.problems) or "it has no key that counts"


def _has_quorum(current: Directory | None, voting: Sequence[NodeState]) -> bool:
    if current is None:
        return False
    able = [node.node_id for node in voting]
    weight = sum(member.weight for member in current.members if member.member_id in able)
    return weight >= quorum_weight(current)


def _key(name: str, rotation: Rotation, seen: Pass) -> KeyState:
    key = seen.topology.key(name)
    active = next((item.key_id for item in rotation.keys if item.state.value == "Active"), "")
    return KeyState(
        name=name,
        purpose=key.spec.purpose,
        validator=key.spec.validator,
        active_key_id=active,
        generations=tuple(
            {"key_id": item.key_id, "generation": item.generation, "state": item.state.value} for item in rotation.keys
        ),
        waits_for=_wait_text(rotation.step) if isinstance(rotation.step, Wait) else "",
    )


def _revocations(seen: Pass, fleet: Fleet, observer: Observer) -> list[RevocationState]:
    found = []
    for statement in seen.statements:
        pending = []
        for config in fleet.configs:
            report = observer.reports.get(config.node_id)
            if report is None or statement.key_id not in report.revoked:
                pending.append(config.node_id)
        confirmed = len(fleet.configs) - len(pending)
        found.append(RevocationState(
            key_id=statement.key_id, reason=statement.reason, applied_by=confirmed, pending_nodes=tuple(pending)
        ))  # fmt: skip
    return found


def _problems(seen: Pass, observer: Observer, genesis_hash: str) -> list[str]:
    problems = [str(problem) for problem in seen.topology.problems]
    problems += [
        f"{report.node_id} runs another world: its genesis is {report.genesis_hash}"
        for report in observer.reachable()
        if report.genesis_hash != genesis_hash
    ]
    problems += [
        f"{report.node_id} has proof that a validator signed two different votes; see `agentworld evidence list`"
        for report in observer.reachable()
        if report.evidence
    ]
    refusal = seen.plan.members if seen.plan is not None else None
    if isinstance(refusal, Refused):
        problems.append(f"{', '.join(refusal.names)} {refusal.what}: {refusal.message}")
    problems += [f"key {key_id} is not revoked: {why}" for key_id, why in seen.revocations.refused.items()]
    return problems


def _notes(plan: UpkeepPlan | None) -> list[str]:
    if plan is None:
        return []
    notes = [f"membership: {_wait_text(plan.members)}"] if isinstance(plan.members, Wait) else []
    for name, rotation in plan.rotations.items():
        if isinstance(rotation.step, Wait) and rotation.step.reason not in ("NotAMember", "AnotherChangePending"):
            notes.append(f"rotation of {name}: {_wait_text(rotation.step)}")
    return notes


def _wait_text(wait: Wait) -> str:
    until = ""
    if wait.until_ms is not None:
        until = datetime.datetime.fromtimestamp(wait.until_ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return _WAITS.get(wait.reason, wait.reason).format(names=", ".join(wait.missing), until=until)


def _is_settled(seen: Pass, nodes: Sequence[NodeState], revocations: Sequence[RevocationState]) -> bool:
    """True when nothing is to be done or waited for but time."""
    if seen.topology.world.spec.paused or seen.topology.world.spec.hibernated:
        return all(node.phase in _AT_REST for node in nodes)
    if seen.plan is None or seen.acted or seen.pending is not None or not isinstance(seen.plan.members, Done):
        return False
    if any(revocation.pending_nodes for revocation in revocations):
        return False
    steps = [rotation.step for rotation in seen.plan.rotations.values()]
    rested = all(isinstance(step, Done) or (isinstance(step, Wait) and step.reason in _PATIENT) for step in steps)
    return rested and all(node.phase in _AT_REST for node in nodes)

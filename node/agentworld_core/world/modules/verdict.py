"""From what several modules say about an action to one verdict: deny beats modify beats allow, and costs add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from agentworld_core.codec import encode_value
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.modules.governance_actions import GOVERNANCE_FIELDS
from agentworld_core.world.modules.output import DENY, MODIFY, Decision, Payload
from agentworld_core.world.modules.records import ResourceRecord, resource_key
from agentworld_core.world.state import Draft


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action may be taken: at what cost to its actor, and what is taken instead of it, if anything."""

    override: tuple[str, Payload] | None = None
    cost: dict[str, int] = field(default_factory=dict)


def merge_decisions(decisions: Sequence[tuple[str, Decision | None]]) -> Verdict:
    """Returns the verdict of decisions in order of module ids; raises ActionRefused when the action is not to be taken.

    Modules that want different actions instead, or do not say which, deny it together.
    """
    cost: dict[str, int] = {}
    overrides: list[tuple[str, Payload]] = []
    for module_id, decision in decisions:
        if decision is None:
            raise ActionRefused("rule_failed", f"the rule {module_id} failed")
        if decision.verdict == DENY:
            raise ActionRefused("denied", f"{module_id} denies it: {decision.notes}")
        if decision.verdict == MODIFY:
            if decision.override is None:
                raise ActionRefused("denied", f"{module_id} wants another action and does not say which")
            overrides.append(decision.override)
        for kind, amount in decision.cost.items():
            cost[kind] = cost.get(kind, 0) + amount
    if len({encode_value([kind, payload]) for kind, payload in overrides}) > 1:
        raise ActionRefused("denied", "modules want different actions instead")
    override = overrides[0] if overrides else None
    if override is not None and override[0] in GOVERNANCE_FIELDS:
        raise ActionRefused("denied", f"no module may turn an action into {override[0]}")
    return Verdict(override, {kind: cost[kind] for kind in sorted(cost) if cost[kind]})


def check_means(draft: Draft, actor_id: str, cost: dict[str, int]) -> None:
    """Raises ActionRefused unless the actor has what the action costs."""
    for kind, amount in cost.items():
        has = (draft.record(resource_key(actor_id, kind), ResourceRecord) or ResourceRecord()).amount
        if has < amount:
            raise ActionRefused("insufficient_resources", f"it costs {amount} of {kind}, and {actor_id} has {has}")

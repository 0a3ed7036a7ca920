"""Modules at work in one step: who is called for what, within which bounds, and what becomes of what they return.

Everything that a module causes is an event. A call that fails is the event ``module.call_failed`` and the step goes on;
only what the node itself cannot do (SandboxFault) stops it. Which modules are called is settled when the step begins:
what governance changes in a step counts from the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from agentworld_core.codec import Value
from agentworld_core.messages import WorldEvent
from agentworld_core.world.modules import apply as events
from agentworld_core.world.modules.batches import BATCH_BYTES, Window
from agentworld_core.world.modules.documents import kind_matches
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.governance_actions import ALLOW, ANY_MODULE
from agentworld_core.world.modules.loading import load
from agentworld_core.world.modules.manifest import POST_ACTION, POST_EVENT, PRE_ACTION, RULE, ModuleManifest
from agentworld_core.world.modules.output import (
    ActionView,
    Decision,
    Effect,
    ModuleFailed,
    Occasion,
    Output,
    Payload,
    make_batch_input,
    make_input,
    parse_output,
    split_answers,
)
from agentworld_core.world.modules.records import (
    EFFECTS_KEY,
    POLICIES_KEY,
    CapabilityRecord,
    EffectCount,
    ModuleStateRecord,
    PolicyRecord,
    capability_key,
    module_state_key,
    read_manifest,
)
from agentworld_core.world.modules.sandbox import (
    CallFailed,
    CallLimits,
    CallResult,
    ModuleCall,
    Sandbox,
    SandboxFault,
)
from agentworld_core.world.modules.table import Called, ModuleTable, open_table
from agentworld_core.world.state import Draft
from agentworld_core.world.tree import Tree

STEP_FUEL = 200_000_000
STEP_CALLS = 16_384
STEP_OUTPUT_BYTES = 8 * 1024 * 1024
STEP_EVENTS = 65_536
MAX_CASCADE = 8
LOAD_ATTEMPTS = 8
MAX_PENDING_EFFECTS = 1024
_STEP_LIMIT = "the modules have used up what a step may cost"

Emit = Callable[[str, Payload, str], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An event that has not been routed yet, the module that caused it, and through how many calls it came about."""

    event: WorldEvent
    emitter: str
    depth: int


@dataclass(slots=True)
class _Spent:
    """What the modules have used of the bounds of a step."""

    fuel: int = 0
    calls: int = 0
    output_bytes: int = 0
    events: int = 0

    def allows(self, module: ModuleManifest) -> bool:
        """True when whatever this module may do in one call stays within the bounds."""
        limits = module.limits
        return (
            self.calls < STEP_CALLS
            and self.fuel + limits.max_gas <= STEP_FUEL
            and self.output_bytes + limits.max_output_bytes <= STEP_OUTPUT_BYTES
            and self.events + limits.max_emits + 2 * limits.max_effects + 2 <= STEP_EVENTS
        )


class ModuleRun:
    """The modules of one step; ``ahead`` gives the actions that follow the one at hand in the block."""

    def __init__(self, table: ModuleTable, *, base: Tree, draft: Draft, sandbox: Sandbox, emit: Emit):
        self.exhausted = False
        self.clock = (0, 0)
        self.ahead: Callable[[], Iterable[ActionView]] = tuple
        self._table = table
        self._base = base
        self._draft = draft
        self._sandbox = sandbox
        self._emit_event = emit
        self._manifest_hash = read_manifest(base).hash
        self._waiting: deque[_Waiting] = deque()
        self._spent = _Spent()
        self._calls: dict[str, int] = {}
        self._called_for: dict[tuple[str, ...], Called] = {}
        self._windows: dict[tuple[str, str], Window] = {}
        self._emitter = ""
        self._depth = 0

    @classmethod
    def of(cls, base: Tree, *, draft: Draft, sandbox: Sandbox | None, emit: Emit) -> ModuleRun | None:
        """Returns the modules that are active in a state, None without any; raises SandboxMissing without a sandbox."""
        table = open_table(base)
        if table is None:
            return None
        if sandbox is None:
            raise SandboxMissing(
                "the world has active modules and there is no sandbox to run them",
                field="modules",
                value=len(table.modules),
                remedy="install the node with its sandbox, or pass one to the verifier",
            )
        return cls(table, base=base, draft=draft, sandbox=sandbox, emit=emit)

    def handles(self, action_kind: str) -> bool:
        """True when modules take actions of a kind that the kernel has no rule for."""
        return self._table.handles(action_kind)

    def noticed(self, event: WorldEvent) -> None:
        """Takes note of an event that has happened, to route it when its turn comes."""
        self._waiting.append(_Waiting(event, self._emitter, self._depth))

    def decide(self, action: ActionView) -> list[tuple[str, Decision | None]]:
        """Returns what the modules say before an action is taken, in order of their ids.

        None stands for a rule that failed or could not be asked, so that nobody gets past a rule by breaking it.
        """
        if not self._called(PRE_ACTION, (action.kind,)):
            return []
        occasion = Occasion.of_action(PRE_ACTION, action)
        decisions: list[tuple[str, Decision | None]] = []
        for module in self._admitted(occasion, (action.kind,)):
            output = self._call(module, occasion)
            if output is None:
                if module.role == RULE:
                    decisions.append((module.module_id, None))
            elif output.decision is not None:
                decisions.append((module.module_id, output.decision))
        return decisions

    def action_taken(self, action: ActionView) -> None:
        """Calls the modules that listen to an action which was taken."""
        if not self._called(POST_ACTION, (action.kind,)):
            return
        occasion = Occasion.of_action(POST_ACTION, action)
        for module in self._admitted(occasion, (action.kind,)):
            self._call(module, occasion)

    def route(self) -> None:
        """Calls the modules that listen to the events that wait, and to those which come of it, until none waits.

        A module never gets what it emitted itself, and events end after ``MAX_CASCADE`` calls that caused each other.
        """
        while self._waiting:
            waiting = self._waiting.popleft()
            kinds = _kinds_of(waiting.event)
            if waiting.depth > MAX_CASCADE or not self._called(POST_EVENT, kinds):
                continue
            occasion = Occasion.of_event(POST_EVENT, waiting.event)
            for module in self._admitted(occasion, kinds):
                if module.module_id != waiting.emitter:
                    self._call(module, occasion, depth=waiting.depth)

    def _called(self, stage: str, kinds: tuple[str, ...]) -> Called:
        key = (stage, *kinds)
        found = self._called_for.get(key)
        if found is None:
            found = self._called_for[key] = self._table.called_for(stage, kinds)
        return found

    def _admitted(self, occasion: Occasion, kinds: tuple[str, ...]) -> list[ModuleManifest]:
        called = self._called(occasion.stage, kinds)
        return [module for module, named in called if any(item.admits(occasion.document.value) for item in named)]

    def _call(self, module: ModuleManifest, occasion: Occasion, *, depth: int = 0) -> Output | None:
        """Calls a module and makes events of what it returns; None when the call failed."""
        self._emitter, self._depth = module.module_id, depth + 1
        try:
            output = self._run(module, occasion)
            self._commit(module, occasion, output)
        except ModuleFailed as failed:
            self._report(module, occasion, failed)
            return None
        finally:
            self._emitter, self._depth = "", 0
        return output

    def _report(self, module: ModuleManifest, occasion: Occasion, failed: ModuleFailed) -> None:
        """Makes an event of a failed call; of what exceeds a bound of the step only the first time."""
        calls = self._calls.get(module.module_id, 0)
        if failed.reason_code == "step_limit_exceeded":
            if self.exhausted:
                return
            self.exhausted = True
        elif failed.reason_code == "call_rate_exceeded":
            self._calls[module.module_id] = calls + 1
            if calls > module.limits.max_call_rate:
                return
        report: Payload = {"code": failed.reason_code, "detail": failed.message[:256]}
        self._emit(module, occasion, events.MODULE_CALL_FAILED, report)

    def _run(self, module: ModuleManifest, occasion: Occasion) -> Output:
        calls = self._calls.get(module.module_id, 0)
        if calls >= module.limits.max_call_rate:
            raise ModuleFailed("call_rate_exceeded", f"at most {module.limits.max_call_rate} calls in a step")
        if self.exhausted or not self._spent.allows(module):
            raise ModuleFailed("step_limit_exceeded", _STEP_LIMIT)
        self._calls[module.module_id] = calls + 1
        self._spent.calls += 1
        record = self._draft.record(module_state_key(module.module_id), ModuleStateRecord)
        state = b"" if record is None else record.state
        window = self._windows.get((module.module_id, occasion.stage))
        if window is None:
            window = self._windows[module.module_id, occasion.stage] = Window(module)
        data = window.answer(occasion, state)
        if data is None:
            data = self._asked(module, occasion, window=window, state=state)
        self._spent.output_bytes += min(len(data), module.limits.max_output_bytes)
        output = parse_output(module, occasion, data)
        window.advance(state if output.new_state is None else output.new_state)
        return output

    def _asked(self, module: ModuleManifest, occasion: Occasion, *, window: Window, state: bytes) -> bytes:
        """Returns the output of a call, made for this occasion alone or for what follows it as well.

        Where a call for many fails, each gets one of its own: one that spoils it for the others spoils it for none.
        """
        occasions = window.plan(occasion, self._followers(module, occasion))
        if len(occasions) > 1:
            answered = self._asked_together(module, occasions, state)
            if answered is not None:
                answers, fuel = answered
                return window.open(occasions, answers, fuel=fuel, state=state)
            window.fail()
            if not self._spent.allows(module):
                raise ModuleFailed("step_limit_exceeded", _STEP_LIMIT)
        given = make_input(module, occasion, clock=self.clock, manifest_hash=self._manifest_hash, state=state)
        result = self._sandboxed(module, module.entry, given=given, room=module.limits.max_output_bytes)
        window.called(fuel=result.fuel_used, output_bytes=len(result.output))
        return result.output

    def _asked_together(
        self, module: ModuleManifest, occasions: list[Occasion], state: bytes
    ) -> tuple[list[bytes], int] | None:
        """Returns the outputs of one call for all of these occasions and the fuel it used; None when it failed."""
        given = make_batch_input(module, occasions, clock=self.clock, manifest_hash=self._manifest_hash, state=state)
        room = min(len(occasions) * module.limits.max_output_bytes, BATCH_BYTES)
        try:
            result = self._sandboxed(module, module.batch_entry, given=given, room=room)
        except ModuleFailed:
            return None
        answers = split_answers(result.output, most=len(occasions))
        return None if answers is None else (answers, result.fuel_used)

    def _followers(self, module: ModuleManifest, occasion: Occasion) -> Iterator[Occasion]:
        """Yields what a module will probably be called for next at the stage of this occasion."""
        if occasion.stage == POST_EVENT:
            for waiting in self._waiting:
                kinds = _kinds_of(waiting.event)
                if waiting.depth > MAX_CASCADE or waiting.emitter == module.module_id:
                    continue
                follower = Occasion.of_event(POST_EVENT, waiting.event)
                if module in self._admitted(follower, kinds):
                    yield follower
            return
        for action in self.ahead():
            if not self._called(occasion.stage, (action.kind,)):
                continue
            follower = Occasion.of_action(occasion.stage, action)
            if module in self._admitted(follower, (action.kind,)):
                yield follower

    def _sandboxed(self, module: ModuleManifest, entry: str, *, given: bytes, room: int) -> CallResult:
        """Calls the sandbox, which may forget code between being given it and being asked, for others use it too.

        A call for a batch has the fuel of one call: whatever it answers has then cost no more than one may.
        """
        limits = module.limits
        bounds = CallLimits(fuel=limits.max_gas, memory_bytes=limits.max_mem_bytes, output_bytes=room)
        call = ModuleCall(artifact=module.wasm_hash, entry=entry, input=given, limits=bounds)
        for _ in range(LOAD_ATTEMPTS):
            load(self._base, self._sandbox, module)
            try:
                result = self._sandbox.call(call)
            except KeyError:
                continue
            except CallFailed as error:
                # How much a failed call has used is not said, so it counts as all that it might have.
                self._spent.fuel += limits.max_gas
                raise ModuleFailed(error.reason_code) from error
            self._spent.fuel += result.fuel_used
            return result
        raise SandboxFault("the sandbox keeps no code", field="artifact", value=module.wasm_hash)

    def _commit(self, module: ModuleManifest, occasion: Occasion, output: Output) -> None:
        """Makes events of an output, or of none of it: what effects need is looked at before anything is changed."""
        self._check_effects(module, occasion, output.effects)
        if output.new_state is not None:
            found = self._draft.record(module_state_key(module.module_id), ModuleStateRecord)
            if found is None or found.state != output.new_state:
                self._emit(module, occasion, events.MODULE_STATE_UPDATED, {"state": output.new_state})
        for effect in output.effects:
            count = self._draft.record(EFFECTS_KEY, EffectCount) or EffectCount()
            intent: Payload = {"intent": count.next, "kind": effect.kind, "params": effect.params}
            due = self.clock[0] + effect.expires_in if effect.expires_in else 0
            named: Payload = {"cap_ref": effect.cap_ref, "expires_tick": due, "ref": effect.ref}
            self._emit(module, occasion, events.EFFECT_QUEUED, {**intent, **named})
        if output.decision is not None:
            self._emit(module, occasion, events.RULE_DECIDED, _decided(output.decision))
        for kind, payload in output.emits:
            self._emit(module, occasion, events.MODULE_EMITTED, {"kind": kind, "payload": payload})

    def _check_effects(self, module: ModuleManifest, occasion: Occasion, effects: tuple[Effect, ...]) -> None:
        count = self._draft.record(EFFECTS_KEY, EffectCount) or EffectCount()
        if effects and count.pending + len(effects) > MAX_PENDING_EFFECTS:
            raise ModuleFailed("effect_limit_exceeded", f"{count.pending} effects wait for their receipts")
        for effect in effects:
            self._check_capability(module, effect)
            allowed, reason = self._policy_of(module, effect)
            decided: Payload = {"kind": effect.kind, "cap_ref": effect.cap_ref, "allowed": allowed, "reason": reason}
            self._emit(module, occasion, events.POLICY_DECIDED, decided)
            if not allowed:
                raise ModuleFailed("policy_denied", f"{effect.kind} is not allowed")

    def _check_capability(self, module: ModuleManifest, effect: Effect) -> None:
        if effect.cap_ref not in module.required_caps:
            raise ModuleFailed("caps_denied", f"the manifest does not require {effect.cap_ref}")
        grant = self._draft.record(capability_key(effect.cap_ref), CapabilityRecord)
        if grant is None or (grant.expires_tick and self.clock[0] > grant.expires_tick):
            raise ModuleFailed("caps_denied", f"{effect.cap_ref} is not granted, or has expired")
        if not any(kind_matches(str(pattern), effect.kind) for pattern in grant.kinds):
            raise ModuleFailed("caps_denied", f"{effect.cap_ref} does not allow {effect.kind}")

    def _policy_of(self, module: ModuleManifest, effect: Effect) -> tuple[bool, Value]:
        policy = self._draft.record(POLICIES_KEY, PolicyRecord) or PolicyRecord()
        for rule in policy.rules:
            match rule:
                case {"effect": str(pattern), "module": named, "decision": decision, "reason": reason} if named in (
                    ANY_MODULE,
                    module.module_id,
                ) and kind_matches(pattern, effect.kind):
                    return decision == ALLOW, reason
        return False, "no policy allows it"

    def _emit(self, module: ModuleManifest, occasion: Occasion, kind: str, payload: Payload) -> None:
        named: Payload = {"module_id": module.module_id, "trace_id": occasion.trace_of(module.module_id)}
        self._emit_event(kind, {**named, **payload}, occasion.caused_by)
        self._spent.events += 1


def _kinds_of(event: WorldEvent) -> tuple[str, ...]:
    """Returns the kinds under which an event is subscribed to: what a module emitted has its own kind as well."""
    if event.kind == events.MODULE_EMITTED and isinstance(event.payload, dict):
        return event.kind, str(event.payload["kind"])
    return (event.kind,)


def _decided(decision: Decision) -> Payload:
    override: Value = None
    if decision.override is not None:
        override = {"kind": decision.override[0], "payload": decision.override[1]}
    return {"verdict": decision.verdict, "cost": {**decision.cost}, "notes": decision.notes, "override": override}

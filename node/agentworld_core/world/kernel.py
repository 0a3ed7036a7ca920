"""The kernel: one step of the world, from a batch of actions to events, receipts and the next state.

It is given actions that have passed ``check_envelope``. An action that the rules refuse is an event and a receipt with
``ok`` false, and the step goes on. Every action that gets its turn uses up its nonce, refused or not, so that no action
is ever executed twice; only one whose nonce is spent already changes nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from agentworld_core.codec import Value
from agentworld_core.messages import ActionEnvelope, DirectoryChange, Receipt, WorldEvent
from agentworld_core.signing import key_id_of
from agentworld_core.world.actions import (
    AGENT_MOVE,
    AGENT_REGISTER,
    MAILBOX_CLEAR,
    MESSAGE_SEND,
    OBJECT_CREATE,
    OBJECT_UPDATE,
    Payload,
    check_payload,
    parse_payload,
)
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.events import (
    ACTION_REJECTED,
    AGENT_MOVED,
    AGENT_REGISTERED,
    DIRECTORY_SCHEDULED,
    MAILBOX_CLEARED,
    MESSAGE_SENT,
    NONCES_USED,
    OBJECT_CREATED,
    OBJECT_UPDATED,
    STEP_STARTED,
    apply_event,
)
from agentworld_core.world.modules.apply import ACTION_OVERRIDDEN, ACTION_TAKEN, RESOURCES_CHARGED
from agentworld_core.world.modules.effects import expired
from agentworld_core.world.modules.execution import ModuleRun
from agentworld_core.world.modules.governance import GOVERNANCE_KINDS, NOBODY, Governance, Office, govern
from agentworld_core.world.modules.output import ActionView
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_core.world.modules.verdict import check_means, merge_decisions
from agentworld_core.world.nonces import NonceWindow
from agentworld_core.world.state import (
    AgentRecord,
    Draft,
    ObjectRecord,
    agent_key,
    nonce_key,
    object_key,
    read_meta,
)
from agentworld_core.world.tree import Tree
from agentworld_core.world.upcoming import Upcoming

MAILBOX_LIMIT = 256


@dataclass(frozen=True, kw_only=True)
class StepInput:
    """What a step is made of: the height it stands for and who governs it, its time, its actions in order, and a
    directory to schedule.
    """

    height: int
    time_ms: int
    actions: Sequence[ActionEnvelope]
    directory_change: DirectoryChange | None = None
    governance: Governance = NOBODY


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step came to: its tick, its events in order, one receipt for each action, and the state after it.

    ``exhausted`` says that the actions made modules use up what a step may cost, so that fewer actions cost less.
    """

    tick: int
    events: tuple[WorldEvent, ...]
    receipts: tuple[Receipt, ...]
    tree: Tree
    exhausted: bool


def step(tree: Tree, given: StepInput, sandbox: Sandbox | None = None) -> StepResult:
    """Returns the result of one step; the same for the same state and input, everywhere and always.

    Raises SandboxFault, and changes nothing, when the world has modules and this node cannot run them.
    """
    run = _Run(tree, given, sandbox)
    run.emit(STEP_STARTED, {"time_ms": given.time_ms})
    if given.directory_change is not None:
        change = given.directory_change
        run.emit(
            DIRECTORY_SCHEDULED,
            {
                "epoch": change.epoch,
                "directory_hash": change.directory_hash,
                "effective_height": change.effective_height,
            },
        )
    for event in expired(tree, run.tick):
        run.emit(*event)
    run.route()
    at_once = run.exhausted
    receipts = tuple([run.take(position, action) for position, action in enumerate(given.actions)])
    if run.used:
        run.emit(NONCES_USED, {"used": run.used})
    return StepResult(
        tick=run.tick,
        events=tuple(run.events),
        receipts=receipts,
        tree=tree.update(run.draft.changes()),
        exhausted=run.exhausted and not at_once,
    )


def replay_events(tree: Tree, events: Iterable[WorldEvent]) -> Tree:
    """Returns the state after a journal, with nothing but its events; the same errors as ``apply_event``."""
    draft = Draft(tree)
    for event in events:
        apply_event(draft, event)
    return tree.update(draft.changes())


class _Run:
    """One step in progress."""

    def __init__(self, tree: Tree, given: StepInput, sandbox: Sandbox | None):
        meta = read_meta(tree)
        self.draft = Draft(tree)
        self.height = given.height
        self.tick = meta.tick + 1
        self.next_event = meta.next_event
        self.events: list[WorldEvent] = []
        self.used: list[Value] = []
        self._windows: dict[bytes, NonceWindow] = {}
        self._office = Office(draft=self.draft, governance=given.governance, tick=self.tick, sandbox=sandbox)
        self.modules = ModuleRun.of(tree, draft=self.draft, sandbox=sandbox, emit=self.emit)
        self._position = 0
        if self.modules is not None:
            self.modules.clock = (self.tick, given.time_ms)
            upcoming = Upcoming(given.actions, self.modules.handles)
            self.modules.ahead = lambda: upcoming.after(self._position)
            self._upcoming = upcoming

    def emit(self, kind: str, payload: Payload, caused_by: str = "") -> None:
        """Applies an event, then appends it to the journal."""
        event = WorldEvent(self.next_event, self.tick, caused_by, kind, payload)
        apply_event(self.draft, event)
        self.events.append(event)
        self.next_event += 1
        if self.modules is not None:
            self.modules.noticed(event)

    @property
    def exhausted(self) -> bool:
        """True once modules have used up what a step may cost."""
        return self.modules is not None and self.modules.exhausted

    def route(self) -> None:
        """Calls the modules that listen to what has happened since the last time."""
        if self.modules is not None:
            self.modules.route()

    def take(self, position: int, action: ActionEnvelope) -> Receipt:
        """Executes one action and returns its receipt, which names all events that came of it."""
        first = self.next_event
        self._position = position
        code = message = ""
        produced: Sequence[tuple[str, Payload]]
        try:
            produced = self._execute(action)
        except ActionRefused as refused:
            code, message = refused.reason_code, refused.message
            rejected: Payload = {"actor_id": action.actor_id, "code": code, "reason": message}
            produced = refused.instead or [(ACTION_REJECTED, rejected)]
        for kind, payload in produced:
            self.emit(kind, payload, action.action_id)
        self.route()
        return Receipt(
            action_id=action.action_id,
            height=self.height,
            position=position,
            ok=not code,
            code=code,
            message=message,
            first_event_id=first,
            event_count=self.next_event - first,
        )

    def _execute(self, action: ActionEnvelope) -> Sequence[tuple[str, Payload]]:
        self._use_nonce(action)
        agent = self.draft.record(agent_key(action.actor_id), AgentRecord)
        if agent is not None and agent.public_key != action.public_key:
            raise ActionRefused("unauthorized", f"another key signs for {action.actor_id}")
        kind = action.action_kind
        view = None if self.modules is None else self._upcoming.at(self._position)
        if view is None:  # with modules that means that its payload is refused, and says how
            payload = parse_payload(action, custom=self.modules is not None and self.modules.handles(kind))
        else:
            payload = view.payload
        if agent is None and kind != AGENT_REGISTER:
            raise ActionRefused("not_found", f"{action.actor_id} is not registered")
        if kind in GOVERNANCE_KINDS:
            return govern(self._office, action, payload)
        if self.modules is None or view is None:
            return [self._handle(agent, action, kind, payload)]
        return self._judged(self.modules, agent, action, view)

    def _judged(
        self, modules: ModuleRun, agent: AgentRecord | None, action: ActionEnvelope, view: ActionView
    ) -> Sequence[tuple[str, Payload]]:
        """Executes an action as far as the rules of modules let it, and tells the modules that it was taken."""
        kind, payload = view.kind, view.payload
        verdict = merge_decisions(
            # Nor do rules keep the agents out who may take them out of force.
            []
            if kind == AGENT_REGISTER and key_id_of(action.public_key) in self._office.governance.key_ids
            else modules.decide(view)
        )
        if verdict.override is not None:
            instead, payload = verdict.override
            overridden: Payload = {"actor_id": action.actor_id, "from": kind, "kind": instead, "payload": payload}
            self.emit(ACTION_OVERRIDDEN, overridden, action.action_id)
            kind, payload = instead, check_payload(instead, payload)
            view = ActionView.of(action.action_id, action.actor_id, kind=kind, payload=payload)
            if agent is None and kind != AGENT_REGISTER:
                raise ActionRefused("not_found", f"{action.actor_id} is not registered")
        done = self._handle(agent, action, kind, payload)
        check_means(self.draft, action.actor_id, verdict.cost)
        if verdict.cost:
            charged: Payload = {"actor_id": action.actor_id, "cost": {**verdict.cost}}
            self.emit(RESOURCES_CHARGED, charged, action.action_id)
        self.emit(*done, action.action_id)
        modules.action_taken(view)
        return []

    def _handle(
        self, agent: AgentRecord | None, action: ActionEnvelope, kind: str, payload: Payload
    ) -> tuple[str, Payload]:
        if kind == AGENT_REGISTER:
            return _register(agent, action, payload)
        handler = _HANDLERS.get(kind)
        if handler is not None:
            return handler(self.draft, action, payload)
        if self.modules is None or not self.modules.handles(kind):
            raise ActionRefused("unsupported", f"no rule for actions of kind {kind}")
        return ACTION_TAKEN, {"actor_id": action.actor_id, "kind": kind, "payload": payload}

    def _use_nonce(self, action: ActionEnvelope) -> None:
        key_id = key_id_of(action.public_key)
        key = nonce_key(action.actor_id, key_id)
        window = self._windows.get(key)
        if window is None:
            window = self.draft.record(key, NonceWindow) or NonceWindow()
        if not window.usable(action.nonce):
            raise ActionRefused("nonce_used", f"nonce {action.nonce} is used or older than the window")
        self._windows[key] = window.use(action.nonce)
        self.used.append([action.actor_id, key_id, action.nonce])


# Payloads of events are written in the order in which maps are encoded, so that nothing needs to be sorted.


def _register(agent: AgentRecord | None, action: ActionEnvelope, payload: Payload) -> tuple[str, Payload]:
    if agent is not None:
        raise ActionRefused("already_exists", f"{action.actor_id} is registered")
    return AGENT_REGISTERED, {
        "agent_id": action.actor_id,
        "position": payload["position"],
        "public_key": action.public_key,
    }


def _move(draft: Draft, action: ActionEnvelope, payload: Payload) -> tuple[str, Payload]:
    agent = _agent(draft, action.actor_id)
    return AGENT_MOVED, {"to": payload["to"], "from": [agent.x, agent.y], "agent_id": action.actor_id}


def _create(draft: Draft, action: ActionEnvelope, payload: Payload) -> tuple[str, Payload]:
    object_id = str(payload["object_id"])
    if draft.record(object_key(object_id), ObjectRecord) is not None:
        raise ActionRefused("already_exists", f"object {object_id} exists")
    return OBJECT_CREATED, {"data": payload["data"], "owner": action.actor_id, "version": 1, "object_id": object_id}


def _update(draft: Draft, action: ActionEnvelope, payload: Payload) -> tuple[str, Payload]:
    object_id = str(payload["object_id"])
    found = draft.record(object_key(object_id), ObjectRecord)
    if found is None:
        raise ActionRefused("not_found", f"there is no object {object_id}")
    if found.owner != action.actor_id:
        raise ActionRefused("unauthorized", f"object {object_id} belongs to {found.owner}")
    return OBJECT_UPDATED, {
        "data": payload["data"],
        "owner": found.owner,
        "version": found.version + 1,
        "object_id": object_id,
    }


def _send(draft: Draft, action: ActionEnvelope, payload: Payload) -> tuple[str, Payload]:
    recipient = str(payload["to"])
    agent = _agent(draft, recipient)
    if agent.mail_next - agent.mail_first >= MAILBOX_LIMIT:
        raise ActionRefused("mailbox_full", f"{MAILBOX_LIMIT} messages wait for {recipient}")
    return MESSAGE_SENT, {
        "to": recipient,
        "body": payload["body"],
        "from": action.actor_id,
        "sequence": agent.mail_next,
    }


def _clear(draft: Draft, action: ActionEnvelope, payload: Payload) -> tuple[str, Payload]:
    agent = _agent(draft, action.actor_id)
    up_to = payload["up_to"]
    assert isinstance(up_to, int)
    last = min(up_to, agent.mail_next - 1)
    if last < agent.mail_first:
        raise ActionRefused("not_found", f"no message up to {up_to} waits")
    return MAILBOX_CLEARED, {"agent_id": action.actor_id, "first": agent.mail_first, "last": last}


def _agent(draft: Draft, agent_id: str) -> AgentRecord:
    agent = draft.record(agent_key(agent_id), AgentRecord)
    if agent is None:
        raise ActionRefused("not_found", f"{agent_id} is not registered")
    return agent


_HANDLERS: dict[str, Callable[[Draft, ActionEnvelope, Payload], tuple[str, Payload]]] = {
    AGENT_MOVE: _move,
    OBJECT_CREATE: _create,
    OBJECT_UPDATE: _update,
    MESSAGE_SEND: _send,
    MAILBOX_CLEAR: _clear,
}

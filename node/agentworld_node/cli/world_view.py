"""Shows a world to a person while it runs: a live table on a terminal, one line a change everywhere else."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from agentworld_node.cli.output import console, print_json, rows_table, short
from agentworld_node.supervisor.state import WorldState, differences

HEARTBEAT_SECONDS = 10.0
SHOWN_EVENTS = 6
_STYLES = {"Voting": "green", "Serving": "green", "Failed": "red", "Lagging": "yellow", "Draining": "yellow"}


class LiveView:
    """A table that is drawn over itself, with the last events below it."""

    def __init__(self) -> None:
        self._live = Live(console=console, refresh_per_second=4)
        self._events: list[str] = []
        self._last: WorldState | None = None

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, state: WorldState) -> None:
        """Draws the state."""
        if self._last is not None:
            self._events = [*self._events, *(_stamped(line) for line in differences(self._last, state))][-SHOWN_EVENTS:]
        self._last = state
        self._live.update(Group(world_table(state), *(Text(line, style="dim") for line in self._events)))


class PlainView:
    """Lines for logs and pipes: what changed at once, and where the head is every ten seconds while it moves."""

    def __init__(self, write: Callable[[str], None]):
        self._write = write
        self._last: WorldState | None = None
        self._shown_height = -1
        self._next_heartbeat = 0.0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, state: WorldState) -> None:
        """Writes what has changed since the last time."""
        lines = differences(self._last, state) if self._last is not None else []
        for line in lines:
            self._write(_stamped(line))
        self._last = state
        now = time.monotonic()
        if state.height != self._shown_height and now >= self._next_heartbeat and state.phase == "Running":
            self._write(_stamped(headline(state)))
            self._shown_height = state.height
            self._next_heartbeat = now + HEARTBEAT_SECONDS


class JsonView:
    """One JSON document a change, for programs."""

    def __init__(self) -> None:
        self._last: WorldState | None = None

    def __enter__(self) -> JsonView:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def show(self, state: WorldState) -> None:
        """Writes the state when it differs from the last one."""
        if state != self._last:
            print_json(state.as_dict())
        self._last = state


def headline(state: WorldState) -> str:
    """Returns one line on the world: height, writer, validators, epoch."""
    parts = [
        f"height {state.height}",
        f"writer {state.writer or '-'} (term {state.term})",
        f"validators {state.voting}/{state.members}",
        f"epoch {state.epoch}" + (f" ({state.pending_epoch} on its way)" if state.pending_epoch else ""),
        f"state root {short(state.state_root)}",
    ]
    return ", ".join(parts)


def world_table(state: WorldState) -> Group:
    """Returns a headline of a world and the table of its nodes."""
    title = Text(f"World {state.world}: {state.phase.lower()}, {headline(state)}", style="bold")
    rows = [
        (
            node.node_id,
            node.kind,
            _styled(node.phase),
            node.height,
            node.lag,
            node.epoch or None,
            "writer" if node.node_id == state.writer else "",
            node.restarts,
            node.message,
        )
        for node in state.nodes
    ]
    return Group(title, rows_table(["Node", "Kind", "Phase", "Height", "Lag", "Epoch", "", "Restarts", ""], rows))


def print_world(state: WorldState) -> None:
    """Prints everything about a world that is worth knowing: nodes, keys, revocations, and what is wrong or awaited."""
    console.print(world_table(state))
    if state.progress:
        style, word = ("red", "stalled") if state.stalled else ("green", "progress")
        console.print(f"[{style}]{word}[/] {escape(state.progress)}")
    console.print(rows_table(["Key", "Signs for", "Generation", "Key id", "State", ""], key_rows(state)))
    if state.revocations:
        rows = [
            (item.key_id, item.reason, item.applied_by, ", ".join(item.pending_nodes)) for item in state.revocations
        ]
        console.print(rows_table(["Revoked", "Reason", "Confirmed by", "Pending"], rows))
    for problem in state.problems:
        console.print(f"[red]problem[/] {escape(problem)}")
    for note in state.notes:
        console.print(f"[dim]waiting[/] {escape(note)}")


def key_rows(state: WorldState) -> list[tuple[object, ...]]:
    """Returns a row for each generation of each key: key, owner, generation, key id, state, what it waits for."""
    return [
        (
            key.name,
            key.validator or "governance",
            generation["generation"],
            generation["key_id"],
            generation["state"],
            key.waits_for if generation is key.generations[-1] else "",
        )
        for key in state.keys
        for generation in key.generations
    ]


def _styled(phase: str) -> Text:
    return Text(phase, style=_STYLES.get(phase, ""))


def _stamped(line: str) -> str:
    return f"{datetime.datetime.now().astimezone():%H:%M:%S} {line}"

"""The demo on one machine: start a world, act in it, verify it, rotate a key, verify it again, stop.

Every command that a reader could type is printed before it is run. The last line is ``demo: ok ...``; anything else is
a failure, with the reason on standard error and exit code 1.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agentworld_client import keys
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import ActionEnvelope
from agentworld_node.cli.output import console, print_rows
from agentworld_node.cli.world_view import LiveView, PlainView, headline
from agentworld_node.supervisor.control import ControlClient
from agentworld_node.supervisor.ports import free_port
from agentworld_node.supervisor.record import find_supervisor
from agentworld_node.supervisor.state import WorldState

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = Path("examples/quickstart")
KEY_FILE = "keys.yaml"
KEY = "aurora-0-signing"
AGENTS = 10
ACTIONS = 1000
MORE_ACTIONS = 100
START_SECONDS = 90.0
COMMIT_SECONDS = 120.0
STOP_SECONDS = 40.0
MAX_RESTARTS = 3


T = TypeVar("T")


class DemoFailed(Exception):
    """A step of the demo did not do what it should; the text says which and what was seen."""


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where the demo keeps things: the world, the manifests that it edits, what the auditor fetched."""

    base: Path

    @property
    def world(self) -> Path:
        """The data folder of the world."""
        return self.base / "world"

    @property
    def manifests(self) -> Path:
        """Copies of the example's manifests, to be edited."""
        return self.base / "manifests"

    @property
    def auditor(self) -> Path:
        """The store of the process that verifies."""
        return self.base / "auditor"


def main() -> int:
    """Runs the demo; returns the exit code."""
    folders = Folders(Path(sys.argv[1]))
    end_on_signals()
    started = time.monotonic()
    supervisor: subprocess.Popen[bytes] | None = None
    try:
        prepare(folders)
        supervisor = start(folders)
        result = asyncio.run(play(folders, supervisor))
        stop(supervisor, folders)
        supervisor = None
    except (DemoFailed, AgentWorldError, OSError, subprocess.SubprocessError) as error:
        print(f"\ndemo: failed: {error}\nlogs: {folders.world}/nodes/*/log and {folders.base}/up.log", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130
    finally:
        if supervisor is not None:
            end(supervisor)
    say("What to try next")
    print(f"""  The world is kept in {folders.world}. Go on with it, in the background:

    export PATH={Path(sys.executable).parent}:$PATH AGENTWORLD_DATA={folders.world.absolute()}
    agentworld up --port 8080 --detach
    agentworld status
    agentworld keys generate ada.pem
    agentworld submit --key ada.pem --agent ada agent.register '{{"position": [0, 0]}}' agent.move '{{"to": [3, 4]}}'
    agentworld follow --from 1 --count 5
    sed -i 's/replicas: 4/replicas: 5/' {folders.manifests}/world.yaml
    agentworld apply -f {folders.manifests}        # the fifth validator syncs first and votes later
    agentworld down

  docs/one-machine.md says more; `make demo-cluster` does the same on Kubernetes.
  It took {time.monotonic() - started:.0f} s.
""")
    print(result, flush=True)
    return 0


async def play(folders: Folders, supervisor: subprocess.Popen[bytes]) -> str:
    """Returns the last line of a demo that went well."""
    control, state = await running(folders, supervisor)
    print(f"\n  gateway  {state.gateway}")
    print(f"  genesis  {state.genesis_hash}   what an auditor pins: all else follows from it\n")
    print_rows(
        ["Process", "Kind", "Pid", "Listens", "Log"],
        [
            (node.node_id, node.kind, node.pid, node.url, folders.world / "nodes" / node.node_id / "log")
            for node in state.nodes
        ],
    )
    async with GatewayClient(state.gateway, patience=60.0) as client:
        agents = make_agents(state.world_id)
        say(
            f"{ACTIONS:,} signed actions of {AGENTS} agents",
            "Each agent signs with a key of its own. `pooled` means a node has it; `committed` means a quorum of",
            "validators has executed it, agreed on the resulting state root, and has it on disk.",
        )
        await act(client, control, first_actions(agents))
        say(
            "Verification by somebody who trusts nobody",
            "A process of its own with a store of its own fetches every block over the network and replays the",
            "world from its genesis: every hash, signature, certificate and state root.",
        )
        before = await verify(folders, state)
        epoch = await rotate(folders, control)
        say("Blocks continue under the new key", f"{MORE_ACTIONS} more actions, in blocks of the new epoch.")
        await act(client, control, more_actions(agents))
        say("The old blocks still verify", "Each block is judged by the epoch that was in force at its height.")
        report = await verify(folders, state)
        status = await client.status()
    if report["height"] <= before["height"]:
        raise DemoFailed(f"no block was made after the rotation: the height is still {report['height']}")
    return (
        f"demo: ok height={report['height']} epoch={epoch}"
        f" state_root={status['head']['state_root']} replayed_root={report['state_root']}"
    )


# The world


def prepare(folders: Folders) -> None:
    """Clears what an earlier demo left; a world of it that still runs is stopped first."""
    if find_supervisor(folders.world) is not None:
        shown(["agentworld", "down", "--data", str(folders.world)])
    shutil.rmtree(folders.base, ignore_errors=True)
    folders.base.mkdir(parents=True)


def start(folders: Folders) -> subprocess.Popen[bytes]:
    """Starts ``agentworld up`` as a process of its own, as a reader would in another terminal."""
    say(
        "A world of four validators on this machine",
        "One supervisor, four validator processes and a gateway, each with its own identity, keys and disk log,",
        "talking libp2p on loopback. The manifests are those that `kubectl apply` takes:",
    )
    for path in sorted(EXAMPLES.glob("*.yaml")):
        print("\n".join(f"  | {line}" for line in path.read_text().splitlines() if not line.startswith("#")))
    words = ["agentworld", "up", "-f", f"{EXAMPLES}/", "--data", str(folders.world), "--port", str(free_port())]
    print(f"\n$ {' '.join(words)} &", flush=True)
    with (folders.base / "up.log").open("wb") as log:
        return subprocess.Popen(command_of(words), stdout=log, stderr=log, stdin=subprocess.DEVNULL)


async def running(folders: Folders, supervisor: subprocess.Popen[bytes]) -> tuple[ControlClient, WorldState]:
    """Returns the way to the supervisor once the world has a quorum, a writer and a gateway that serves."""

    async def look() -> tuple[ControlClient, WorldState] | None:
        if supervisor.poll() is not None:
            raise DemoFailed(f"agentworld up ended: {(folders.base / 'up.log').read_text()[-2000:]}")
        record = find_supervisor(folders.world)
        if record is None:
            return None
        client = ControlClient(record)
        state = await client.world()
        for node in state.nodes:
            if node.phase == "Failed" and node.restarts >= MAX_RESTARTS:
                raise DemoFailed(f"{node.node_id} does not stay up: it {node.message}")
        ready = state.settled and state.writer
        return (client, state) if ready else None

    began = time.monotonic()
    found = await wait_for("the world runs", look, START_SECONDS)
    print(f"  running after {time.monotonic() - began:.1f} s")
    return found


def stop(supervisor: subprocess.Popen[bytes], folders: Folders) -> None:
    """Stops the world and checks that nothing of it is left."""
    say("Everything stops", "The writer hands its lease over, each node closes its log.")
    shown(["agentworld", "down", "--data", str(folders.world)])
    if supervisor.wait(STOP_SECONDS) != 0:
        raise DemoFailed(f"agentworld up ended with exit code {supervisor.returncode}")


def end(supervisor: subprocess.Popen[bytes]) -> None:
    """Ends the supervisor, which ends its nodes, however the demo failed."""
    supervisor.send_signal(signal.SIGTERM)
    try:
        supervisor.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()


# The client


def make_agents(world_id: str) -> list[Agent]:
    """Returns agents with new keys."""
    return [Agent(keys.generate(), world_id=world_id, actor_id=f"agent-{n}") for n in range(AGENTS)]


def first_actions(agents: Sequence[Agent]) -> list[ActionEnvelope]:
    """Returns 1,000 actions: every agent registers and makes an object, then they move, change it and write."""
    actions = [agent.act("agent.register", {"position": [n, 0]}) for n, agent in enumerate(agents)]
    actions += [
        agent.act("object.create", {"object_id": f"lamp-{agent.actor_id}", "data": {"lit": False}}) for agent in agents
    ]
    return actions + [deed(agents, n) for n in range(ACTIONS - len(actions))]


def more_actions(agents: Sequence[Agent]) -> list[ActionEnvelope]:
    """Returns some more actions of agents that are registered."""
    return [deed(agents, n) for n in range(MORE_ACTIONS)]


def deed(agents: Sequence[Agent], number: int) -> ActionEnvelope:
    """Returns one thing that an agent does: mostly moves, sometimes a message or a change of its lamp."""
    agent = agents[number % len(agents)]
    other = agents[(number + 1) % len(agents)]
    turn = number // len(agents)
    if turn % 5 == 3:
        return agent.act("message.send", {"to": other.actor_id, "body": f"hello number {number}"})
    if turn % 5 == 4:
        lit = turn % 2 == 0
        return agent.act("object.update", {"object_id": f"lamp-{agent.actor_id}", "data": {"lit": lit}})
    return agent.act("agent.move", {"to": [number, turn]})


async def act(client: GatewayClient, control: ControlClient, actions: Sequence[ActionEnvelope]) -> None:
    """Submits actions, shows the world while they are committed, and checks that each is there exactly once."""
    began = time.monotonic()
    receipts = await submit_all(client, actions)
    refused = [receipt for receipt in receipts if "error" in receipt]
    if refused:
        raise DemoFailed(f"{len(refused)} of {len(actions)} actions were refused, for instance {refused[0]}")
    print(f"  {len(receipts):,} pooled after {time.monotonic() - began:.1f} s", flush=True)
    final: list[dict[str, Any]] = []

    async def committed() -> list[dict[str, Any]] | None:
        # Submitting again changes nothing: the answer is what became of the first time.
        found = await submit_all(client, actions)
        return found if all(receipt.get("status") == "committed" for receipt in found) else None

    with LiveView() if console.is_terminal else PlainView(lambda line: print(f"  {line}", flush=True)) as view:

        async def show() -> None:
            while not final:
                view.show(await control.world())
                await asyncio.sleep(0.3)

        showing = asyncio.create_task(show())
        try:
            final += await wait_for("all actions are committed", committed, COMMIT_SECONDS)
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
    failed = [receipt for receipt in final if not receipt["ok"]]
    places = {(receipt["height"], receipt["position"]) for receipt in final}
    if failed or len(places) != len(actions):
        raise DemoFailed(f"{len(failed)} actions were refused in their block, {len(places)} places for {len(actions)}")
    heights = sorted({receipt["height"] for receipt in final})
    took = time.monotonic() - began
    print(f"  {len(final):,} committed, each exactly once, in blocks {heights[0]} to {heights[-1]}, after {took:.1f} s")

    async def seen() -> WorldState | None:
        found = await control.world()
        return found if found.height >= heights[-1] else None

    state = await wait_for("the supervisor has seen the last block", seen, COMMIT_SECONDS)
    print(f"  {headline(state)}", flush=True)


# The auditor


async def verify(folders: Folders, state: WorldState) -> dict[str, Any]:
    """Runs ``agentworld verify --replay`` as a process of its own and compares its root with what the gateway says."""
    words = ["agentworld", "verify", "--replay", "--gateway", state.gateway, "--genesis-hash", state.genesis_hash]
    words += ["--store", str(folders.auditor)]
    report: dict[str, Any] = json.loads(shown([*words, "--output", "json"], show_output=False))
    async with GatewayClient(state.gateway) as client:
        head = (await client.status())["head"]
    fetched = f"{report['fetched_blocks']} read, {report['stored_blocks']} from its own store and checked again"
    print(f"  heights 1 to {report['height']}: {fetched}, {report['actions']} actions replayed")
    print(f"  state root at height {head['height']:>4}, says the world: {head['state_root']}")
    print(f"  state root at height {report['height']:>4}, by replay:     {report['state_root']}", flush=True)
    if (head["height"], head["state_root"]) != (report["height"], report["state_root"]):
        raise DemoFailed("the replayed state root is not that of the world")
    return report


async def rotate(folders: Folders, control: ControlClient) -> int:
    """Rotates a validator's key by editing a number, and returns the directory epoch after it."""
    say(
        "A new key for a validator: edit one number and apply again",
        "The supervisor makes the key, publishes a directory epoch that trusts it, waits until the nodes confirm,",
        "and lets the validator sign with it. No process restarts; the old key stays trusted for the overlap.",
    )
    shutil.copytree(EXAMPLES, folders.manifests, dirs_exist_ok=True)
    path = folders.manifests / KEY_FILE
    before, old = path.read_text(), await control.world()
    edited = before.replace("generation: 1", "generation: 2")
    if edited == before:
        raise DemoFailed(f"{path} has no `generation: 1` to edit")
    path.write_text(edited)
    print(f"\n$ sed -i 's/generation: 1/generation: 2/' {path}")
    shown(["agentworld", "apply", "-f", str(folders.manifests), "--data", str(folders.world), "--wait"])
    new = await control.world()
    rows = [
        (key.name, generation["generation"], generation["key_id"], generation["state"])
        for key in new.keys
        if key.name == KEY
        for generation in key.generations
    ]
    print()
    print_rows(["MembershipKey", "Generation", "Key id", "State"], rows)
    print(f"\n  directory epoch {old.epoch} → {new.epoch}", flush=True)
    if new.epoch <= old.epoch or [row[3] for row in rows] != ["Retiring", "Active"]:
        raise DemoFailed(f"the key was not rotated: epoch {new.epoch}, keys {rows}")
    if [node.pid for node in new.nodes] != [node.pid for node in old.nodes]:
        raise DemoFailed("a process was restarted by the rotation")
    return new.epoch


# Saying and running


async def wait_for(what: str, look: Callable[[], Awaitable[T | None]], seconds: float) -> T:
    """Returns the first result that is not None; DemoFailed says what was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        found = await look()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"after {seconds:.0f} s still waiting until {what}")
        await asyncio.sleep(0.3)


def say(title: str, *lines: str) -> None:
    """Prints a heading and what happens below it."""
    print(f"\n── {title}", *(f"  {line}" for line in lines), sep="\n", flush=True)


def shown(words: list[str], *, show_output: bool = True) -> str:
    """Prints a command as a reader would type it, runs it, and returns its output; DemoFailed when it fails."""
    print(f"\n$ {' '.join(words)}", flush=True)
    command = command_of(words)
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if show_output and result.stdout:
        print(result.stdout, end="", flush=True)
    if result.returncode:
        raise DemoFailed(f"exit code {result.returncode} from `{' '.join(words)}`: {result.stderr.strip()}")
    return result.stdout


def command_of(words: list[str]) -> list[str]:
    """Returns the command line that runs ``agentworld`` with this interpreter."""
    return [sys.executable, "-m", "agentworld_node", *words[1:]]


def end_on_signals() -> None:
    """Lets SIGTERM end the demo as Ctrl-C does, also where a shell has it ignore Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())

"""The supervisor's passes over nodes in memory: they arrive at what is declared, from wherever they are."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld_client import keys as key_files
from agentworld_core.consensus.verdict import Verdict
from agentworld_core.membership.directory import check_first_directory, check_next_directory
from agentworld_core.membership.upkeep import FORCE_REMOVE
from agentworld_core.membership.wishes import FORCE_REVOKE
from agentworld_core.ordering.rate import RateLimit
from agentworld_node.supervisor import home as home_module
from agentworld_node.supervisor import reconciler as reconciler_module
from agentworld_node.supervisor.home import WorldHome
from agentworld_node.supervisor.state import WorldState
from tests.unit.node.supervisor.fakes import Chain, OneMachine, declared, governance, key, resource, world


class Clock:
    """Wall time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(reconciler_module, "now_ms", clock)
    return clock


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def states(state: WorldState, name: str = "aurora-0") -> list[tuple[int, str]]:
    found = next(item for item in state.keys if item.name == name)
    return [(generation["generation"], generation["state"]) for generation in found.generations]


def active(machine: OneMachine, name: str = "aurora-0") -> str:
    return machine.home.ring(name).active_key_id


def written(folder: Path) -> dict[Path, int]:
    """When each file was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def modes(folder: Path) -> set[str]:
    """The modes of all files."""
    return {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()}


def check_chain(chain: Chain) -> None:
    """Every epoch follows from the one before it."""
    check_first_directory(chain.directories[0])
    for before, after in zip(chain.directories, chain.directories[1:], strict=False):
        check_next_directory(before, after)


async def test_a_world_is_founded_and_then_nothing_is_written(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    state = await machine.settle()

    assert [node.phase for node in state.nodes] == ["Voting"] * 4
    assert (state.epoch, state.members, state.voting, state.problems) == (1, 4, 4, ())
    before = written(tmp_path)
    await machine.passes(3)
    assert written(tmp_path) == before


async def test_private_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    await OneMachine(tmp_path / "w", declared(world(1))).settle()

    assert modes(tmp_path / "w") == {"0o600"}


async def test_a_rotation_runs_to_its_end(tmp_path: Path, clock: Clock) -> None:
    overlap: dict[str, Any] = {"rotation": {"overlap": "10s"}}
    machine = OneMachine(tmp_path, declared(world(4), key(**overlap)))
    first = active(machine) or machine.home.ring("aurora-0").active_key_id
    await machine.settle()

    machine.edit(key(generation=2, **overlap))
    state = await machine.settle()

    assert states(state) == [(1, "Retiring"), (2, "Active")]
    assert any("stays trusted until 2023-11-14 22:13:30 UTC" in note for note in state.notes)
    assert (state.epoch, active(machine) != first) == (2, True)
    clock.now += 10_000
    assert (await machine.once()).settled is False
    state = await machine.settle()
    assert states(state) == [(1, "Retired"), (2, "Active")]
    assert [path.name for path in sorted((tmp_path / "nodes/aurora-0/keys").iterdir())] == ["active", "g2.pem"]
    assert [len(directory.members[0].keys) for directory in machine.chain.directories] == [1, 2, 1]
    assert machine.fleet.history == [f"start aurora-{n}" for n in range(4)], "no node is restarted"
    check_chain(machine.chain)


async def test_the_clock_rotates_and_does_not_swallow_the_wish_of_a_person(tmp_path: Path, clock: Clock) -> None:
    spec: dict[str, Any] = {"rotation": {"interval": "1h", "overlap": "1s"}}
    machine = OneMachine(tmp_path, declared(world(1), key(**spec)))
    await machine.settle()
    clock.now += 3_600_000
    await machine.settle()
    assert machine.home.ring("aurora-0").active == machine.home.ring("aurora-0").generations[1]

    machine.edit(key(generation=2, **spec))
    await machine.settle()
    newest = machine.home.ring("aurora-0").newest
    assert newest is not None
    assert (newest.number, newest.asked, newest.key_id) == (3, 2, active(machine))


async def test_a_governance_key_is_rotated_by_both_its_generations(tmp_path: Path, clock: Clock) -> None:
    machine = OneMachine(tmp_path, declared(world(1), governance()))
    await machine.settle()
    machine.edit(governance(generation=2, rotation={"overlap": "1s"}))
    await machine.settle()
    clock.now += 1_000
    await machine.once()
    state = await machine.settle()

    assert states(state, "aurora-governance") == [(1, "Retired"), (2, "Active")]
    assert [len(item.signatures) for item in machine.chain.directories] == [1, 2, 2]
    check_chain(machine.chain)


async def test_replicas_grow_after_syncing_and_shrink_directory_first(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.chain.behind.add("aurora-4")
    machine.edit(world(5))
    state = await machine.passes(5)
    assert (state.members, state.nodes[4].phase) == (4, "Syncing")
    assert "membership: aurora-4 must catch up before joining" in state.notes

    machine.chain.behind.clear()
    state = await machine.settle()
    assert (state.members, state.nodes[4].phase) == (5, "Voting")

    machine.edit(world(4))
    for _ in range(20):
        await machine.once()
        if "stop aurora-4" in machine.fleet.history:
            break
    assert [member.member_id for member in machine.chain.current.members] == [f"aurora-{n}" for n in range(4)]
    state = await machine.settle()
    assert [node.node_id for node in state.nodes] == [f"aurora-{n}" for n in range(4)]
    assert not (tmp_path / "nodes/aurora-4/config.json").exists()
    assert (tmp_path / "nodes/aurora-4/identity.pem").exists(), "deletionPolicy Retain"

    machine.edit(world(5))
    assert (await machine.settle()).members == 5, "who has left may come back"
    check_chain(machine.chain)


async def test_who_would_take_the_quorum_along_may_not_leave_unless_forced(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.edit(world(1))
    state = await machine.passes(4)
    assert state.members == 4
    assert any("aurora-1, aurora-2, aurora-3 may not leave" in problem for problem in state.problems)

    machine.edit(world(1, annotations={FORCE_REMOVE: "true"}))
    assert (await machine.settle()).members == 1


async def test_a_drained_validator_leaves_and_is_kept(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.edit(resource("Validator", "aurora-3", world="aurora", drain=True))
    state = await machine.settle()

    assert (state.members, state.nodes[3].phase) == (3, "Stopped")
    machine.edit(resource("Validator", "aurora-3", world="aurora", drain=False))
    state = await machine.settle()
    assert (state.members, state.nodes[3].phase) == (4, "Voting")


async def test_a_suspended_validator_stays_a_member(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.edit(resource("Validator", "aurora-2", world="aurora", suspend=True))
    state = await machine.settle()

    assert (state.members, state.voting, state.nodes[2].phase, state.phase) == (4, 3, "Suspended", "Running")


async def test_a_world_that_is_stalled_says_why(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    state = await machine.settle()
    assert (state.stalled, state.progress) == (False, "idle: no actions wait")
    stuck = Verdict(state="NoWriter", message="nobody holds the writer lease", stalled=True)
    machine.chain.progress = dict.fromkeys(["aurora-0", "aurora-1", "aurora-2"], stuck)
    state = await machine.once()
    assert (state.stalled, state.progress) == (True, stuck.message)


async def test_an_active_key_that_is_revoked_is_replaced_at_once(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    lost = active(machine, "aurora-1")
    machine.chain.silent.add("aurora-3")
    machine.edit(key("aurora-1", "aurora-1", revoked=[{"keyId": lost, "reason": "lost", "at": "2023-01-02T03:04:05Z"}]))
    state = await machine.passes(8)

    assert states(state, "aurora-1") == [(1, "Revoked"), (2, "Active")]
    assert [(item.applied_by, item.pending_nodes) for item in state.revocations] == [(3, ("aurora-3",))]
    assert [item.key_id for item in machine.chain.current.revoked] == [lost]
    statement = machine.home.statements()[0]
    assert (statement.reason, statement.revoked_at_ms, statement.requester_id) == (
        "lost",
        1_672_628_645_000,
        "aurora-1",
    )

    machine.chain.silent.clear()
    state = await machine.settle()
    assert [(item.applied_by, item.pending_nodes) for item in state.revocations] == [(4, ())]
    assert not (tmp_path / "nodes/aurora-1/keys/g1.pem").exists()
    check_chain(machine.chain)


async def test_a_revocation_that_would_stop_the_world_waits_for_the_replacement(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(1)))
    await machine.settle()
    lost = active(machine)
    machine.edit(key(revoked=[{"keyId": lost}]))
    while not machine.home.statements():
        assert (await machine.once()).phase in ("Running", "Starting")
    assert active(machine) != lost, "the new key signs before the old one is revoked"
    assert states(await machine.settle()) == [(1, "Revoked"), (2, "Active")]


async def test_the_last_governance_key_is_revoked_only_when_forced(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(1), governance()))
    await machine.settle()
    lost = active(machine, "aurora-governance")
    machine.edit(governance(revoked=[{"keyId": lost}]))
    state = await machine.passes(3)
    assert not machine.home.statements()
    assert any(f"key {lost} is not revoked" in problem and FORCE_REVOKE in problem for problem in state.problems)

    machine.edit(governance(revoked=[{"keyId": lost}], annotations={FORCE_REVOKE: "true"}))
    await machine.passes(3)
    assert list(machine.chain.revoked["aurora-0"]) == [lost]


async def test_revocations_from_elsewhere_are_learned(tmp_path: Path) -> None:
    first = OneMachine(tmp_path / "a", declared(world(4)))
    await first.settle()
    lost = active(first, "aurora-1")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = OneMachine(
        tmp_path / "b", declared(world(4), key("aurora-1", "aurora-1", revoked=[{"keyId": lost}])), first.chain
    )
    other.chain.moves = False
    await other.passes(2)

    await first.once()
    assert [statement.key_id for statement in first.home.statements()] == [lost]


async def test_changed_rules_of_the_world_become_an_epoch(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.edit(
        governance("root"),
        governance("aurora-governance"),
        world(4, consensus={"faultModel": "Crash"}, governance={"keys": ["aurora-governance", "root"], "threshold": 2}),
    )
    await machine.settle()

    current = machine.chain.current
    assert (current.fault_model, len(current.governance), current.governance_threshold) == ("Crash", 2, 2)
    check_chain(machine.chain)


async def test_paused_decides_nothing_and_hibernated_stops_all(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.edit(world(4, paused=True), key(generation=2))
    state = await machine.passes(3)
    assert (state.phase, state.voting, len(machine.home.signers("aurora-0"))) == ("Paused", 4, 1)

    machine.edit(world(4, hibernated=True))
    state = await machine.passes(2)
    assert (state.phase, {node.phase for node in state.nodes}) == ("Hibernated", {"Stopped"})
    machine.edit(world(4))
    assert (await machine.settle()).voting == 4


async def test_changed_settings_restart_one_node_after_the_other(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.edit(world(4, mempool={"maxActions": 50, "maxPerActor": 5}))
    machine.chain.behind.add("aurora-3")
    await machine.passes(3)
    assert not [line for line in machine.fleet.history if line.startswith("stop")], "not while another one is behind"

    machine.chain.behind.clear()
    await machine.settle()
    assert machine.fleet.history[4:] == [f"{word} aurora-{n}" for n in range(4) for word in ("stop", "start")]


@pytest.mark.box("S7.1", "rate")
async def test_a_rate_limit_is_set_and_taken_away_in_the_running_world(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4, gateway={"replicas": 1})))
    await machine.settle()
    for rate in ({"requestsPerSecond": 5, "burst": 9}, {"requestsPerSecond": 6}, None):
        before = len(machine.fleet.history)
        machine.edit(world(4, gateway={"replicas": 1, "rateLimit": rate}))
        await machine.settle()
        restarted = [line for line in machine.fleet.history[before:] if line.startswith("start")]
        assert restarted == [f"start aurora-{name}" for name in (0, 1, 2, 3, "gateway-0")]
        limit = None if rate is None else RateLimit(per_second=rate["requestsPerSecond"], burst=rate.get("burst", 6))
        assert [config.rate_limit for config in machine.home.node_configs()] == [limit] * 5


async def test_a_directory_that_waits_is_submitted_again_as_it_was(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(4)))
    await machine.settle()
    machine.chain.moves = False
    machine.edit(key(generation=2))
    await machine.passes(3)
    waiting = machine.home.waiting_directory()
    assert waiting is not None
    assert machine.chain.waiting == waiting

    machine.chain.waiting = None
    machine.restart()
    await machine.passes(2)
    assert machine.chain.waiting == waiting
    machine.chain.moves = True
    await machine.settle()
    assert machine.chain.current == waiting
    assert machine.home.waiting_directory() is None


class Killed(BaseException):
    """The supervisor is killed here."""


EDITS: dict[str, tuple[int, dict[str, Any]]] = {
    "rotation": (1, key(generation=2, rotation={"overlap": "1s"})),
    "governance rotation": (1, governance(generation=2, rotation={"overlap": "1s"})),
    "growth": (1, world(2)),
    "shrinking": (2, world(1, annotations={FORCE_REMOVE: "true"})),
}
"""How many validators there are, and what is applied then."""


@pytest.mark.parametrize("after_write", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("name", EDITS)
async def test_killed_at_any_write_the_next_supervisor_arrives_at_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, name: str, after_write: bool
) -> None:
    replicas, edit = EDITS[name]
    start = OneMachine(tmp_path / "start", declared(world(replicas)))
    await start.settle()
    began = clock.now
    outcomes = []
    for number in range(100):
        clock.now = began
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "start", folder)
        chain = Chain()
        chain.directories = list(start.chain.directories)
        machine = OneMachine(folder, start.declared, chain)
        machine.edit(edit)
        with monkeypatch.context() as patch:
            killed = kill_at_write(patch, number, after_write)
            with contextlib.suppress(Killed):
                await finish(machine, clock)
        machine.restart()
        state = await finish(machine, clock)
        check_chain(chain)
        members = [(member.member_id, len(member.keys)) for member in chain.current.members]
        outcomes.append((states(state), states(state, "aurora-governance"), members, len(chain.directories)))
        if not killed():
            break
    else:
        pytest.fail("the edit never came to its end undisturbed")
    assert number >= 2, "there were writes to be killed at"
    assert outcomes == [outcomes[-1]] * len(outcomes)


async def finish(machine: OneMachine, clock: Clock) -> WorldState:
    """Runs until all is done, the overlap of retired keys included."""
    await machine.settle()
    clock.now += 2_000
    await machine.once()
    return await machine.settle()


def kill_at_write(patch: pytest.MonkeyPatch, number: int, after: bool) -> Callable[[], bool]:
    """Raises Killed at the numbered write of the home; the result says whether it came to that."""
    count = iter(range(1_000_000))
    fired: list[int] = []

    def killing(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            mine = next(count) == number
            if mine:
                fired.append(number)
            if mine and not after:
                raise Killed
            result = write(*arguments, **named)
            if mine:
                raise Killed
            return result

        return wrapper

    patch.setattr(home_module, "write_file", only_changes(killing, home_module.write_file))
    patch.setattr(key_files, "save", killing(key_files.save))
    return lambda: bool(fired)


def only_changes(killing: Callable[..., Any], write: Callable[[Path, bytes], bool]) -> Callable[[Path, bytes], bool]:
    """Counts only writes that change something; the others touch no file."""
    counted = killing(write)

    def wrapper(path: Path, data: bytes) -> bool:
        same = path.exists() and path.read_bytes() == data
        return write(path, data) if same else bool(counted(path, data))

    return wrapper


def test_the_home_is_not_taken_from_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")

    with pytest.raises(Exception, match="holds no world"):
        WorldHome(tmp_path).prepare()


def test_what_is_lost_about_a_key_ring_only_begins_anew(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(1)))
    ring = machine.home.ring("aurora-0")
    (tmp_path / "keys/aurora-0/ring.json").unlink()

    assert machine.home.ring("aurora-0") == ring

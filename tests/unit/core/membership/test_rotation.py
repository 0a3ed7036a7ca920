from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from agentworld_core.membership.builder import Changes, next_directory, revoked_key
from agentworld_core.membership.directory import check_next_directory
from agentworld_core.membership.rotation import (
    Confirmation,
    KeyMaterial,
    KeyPlan,
    KeyState,
    Observed,
    Progress,
    Purpose,
    Rotation,
    plan_rotation,
)
from agentworld_core.membership.steps import Done, MakeKey, PublishDirectory, Step, SwitchSigning, Wait
from agentworld_core.messages import Directory, Revocation
from tests.unit.core.membership.worlds import first_directory, signed, signer, statement

NODES = ("a", "b", "c", "d")
OVERLAP = 1000
TIMEOUT = 100


@dataclass
class Home:
    """Carries out steps like a home would, and lets tests hold nodes back, lose notes and pass time."""

    purpose: Purpose = Purpose.VALIDATOR
    generation: int = 1
    now_ms: int = 0
    current: Directory = field(default_factory=lambda: first_directory(dict.fromkeys(NODES, 1)))
    pending: Directory | None = None
    epochs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 1))
    signs_with: str | None = None
    active: str | None = None
    revocations: list[Revocation] = field(default_factory=list)
    progress: Progress = field(default_factory=Progress)
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.material = {1: KeyMaterial(1, signer(self.name(1)).public_key)}
        self.active = self.signs_with = self.material[1].key_id

    def name(self, generation: int) -> str:
        base = "gov" if self.purpose is Purpose.GOVERNANCE else "a"
        return base if generation == 1 else f"{base}{generation}"

    def decide(self) -> Rotation:
        plan = KeyPlan(
            purpose=self.purpose,
            member_id="a" if self.purpose is Purpose.VALIDATOR else None,
            generation=self.generation,
            overlap_ms=OVERLAP,
            confirm_timeout_ms=TIMEOUT,
        )
        observed = Observed(
            material=tuple(self.material.values()),
            active_key_id=self.active,
            current=self.current,
            pending=self.pending,
            confirmations=[
                Confirmation(node, epoch, self.signs_with if node == "a" else None)
                for node, epoch in self.epochs.items()
            ],
            revoked=[revoked_key(item) for item in self.revocations],
            progress=self.progress,
            now_ms=self.now_ms,
        )
        decided = plan_rotation(plan, observed)
        assert plan_rotation(plan, observed) == decided
        return decided

    def run(self) -> Step:
        """Carries out steps until there is something to wait for, or nothing to do."""
        for _ in range(20):
            decided = self.decide()
            self.progress = decided.progress
            self.steps.append(decided.step)
            match decided.step:
                case MakeKey(generation):
                    self.material[generation] = KeyMaterial(generation, signer(self.name(generation)).public_key)
                case PublishDirectory(changes, reason):
                    assert self.pending is None
                    proposed = next_directory(self.current, changes, now_ms=self.now_ms, reason=reason)
                    names = ["gov"] if self.purpose is Purpose.VALIDATOR else [self.name(g) for g in self.material]
                    known = {key.key_id for key in (*self.current.governance, *proposed.governance)}
                    proposed = signed(proposed, *[name for name in names if signer(name).key_id in known])
                    check_next_directory(self.current, proposed)
                    self.pending = proposed
                case SwitchSigning(key_id):
                    self.active = key_id
                case _:
                    return decided.step
        raise AssertionError(f"does not come to rest: {self.steps[-4:]}")

    def put_in_force(self, *nodes: str) -> None:
        assert self.pending is not None
        self.current, self.pending = self.pending, None
        for node in nodes or NODES:
            self.epochs[node] = self.current.epoch

    def key_ids(self) -> list[str]:
        keys = self.current.governance if self.purpose is Purpose.GOVERNANCE else self.current.members[0].keys
        return [key.key_id for key in keys]

    def states(self) -> list[KeyState]:
        return [key.state for key in self.decide().keys]


def key(name: str) -> str:
    return signer(name).key_id


@pytest.mark.parametrize("purpose", list(Purpose))
def test_nothing_to_do_at_first(purpose: Purpose) -> None:
    home = Home(purpose)
    assert home.run() == Done()
    assert home.states() == [KeyState.ACTIVE]


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_rotation_makes_trusts_switches_retires_and_drops(purpose: Purpose) -> None:
    home = Home(purpose, generation=2)
    old, new = key(home.name(1)), key(home.name(2))
    assert home.run() == Wait("DirectoryPending")
    assert home.states() == [KeyState.ACTIVE, KeyState.PENDING]
    home.put_in_force("a", "b")
    assert home.run() == Wait("NodesToConfirm", ("c", "d"), until_ms=TIMEOUT)
    assert home.active == old
    assert home.states() == [KeyState.ACTIVE, KeyState.TRUSTED]
    home.epochs |= {"c": 2, "d": 2}
    waiting = home.run()
    assert home.active == new
    if purpose is Purpose.VALIDATOR:
        assert waiting == Wait("SignerToSwitch", ("a",))
        home.signs_with = new
        waiting = home.run()
    assert waiting == Wait("Overlap", until_ms=OVERLAP)
    assert home.states() == [KeyState.RETIRING, KeyState.ACTIVE]
    assert sorted(home.key_ids()) == sorted([old, new])
    home.now_ms = OVERLAP
    assert home.run() == Wait("DirectoryPending")
    home.put_in_force()
    assert home.run() == Done()
    assert home.key_ids() == [new]
    assert home.states() == [KeyState.RETIRED, KeyState.ACTIVE]
    assert [type(step) for step in home.steps if not isinstance(step, Wait)] == [
        MakeKey,
        PublishDirectory,
        SwitchSigning,
        PublishDirectory,
        Done,
    ]


def test_after_the_timeout_a_quorum_is_enough_and_less_is_not() -> None:
    home = Home(generation=2)
    home.run()
    home.put_in_force("a", "b")
    home.run()
    home.now_ms = TIMEOUT
    assert home.run() == Wait("NodesToConfirm", ("c", "d"))
    home.epochs["c"] = 2
    assert home.run() == Wait("SignerToSwitch", ("a",))


def test_the_old_key_stays_while_its_node_is_away() -> None:
    home = Home(generation=2)
    home.run()
    home.put_in_force()
    home.run()
    home.now_ms = 10**9
    assert home.run() == Wait("SignerToSwitch", ("a",))


def test_lost_notes_only_make_it_wait_again() -> None:
    home = Home(generation=2)
    home.run()
    home.put_in_force()
    home.run()
    home.signs_with = key("a2")
    home.run()
    home.now_ms, home.progress = OVERLAP - 1, Progress()
    assert home.run() == Wait("Overlap", until_ms=2 * OVERLAP - 1)
    home.now_ms = 2 * OVERLAP
    assert home.run() == Wait("DirectoryPending")


def test_another_change_under_way_is_waited_for() -> None:
    home = Home(generation=2)
    other = Home()
    home.run()
    home.pending = next_directory(other.current, Changes(), now_ms=0)
    assert home.run() == Wait("AnotherChangePending")


def test_a_revoked_active_key_is_replaced_at_once() -> None:
    home = Home()
    home.run()
    home.revocations.append(statement(key("a"), "gov"))
    assert home.run() == Wait("DirectoryPending")
    assert home.states() == [KeyState.REVOKED, KeyState.PENDING]
    home.put_in_force("a")
    assert home.run() == Done()
    assert home.active == key("a2")
    assert home.key_ids() == [key("a2")]
    assert [item.key_id for item in home.current.revoked] == [key("a")]
    assert home.states() == [KeyState.REVOKED, KeyState.ACTIVE]


def test_a_revoked_new_key_is_followed_by_another() -> None:
    home = Home(generation=2)
    home.run()
    home.put_in_force("a")
    home.revocations.append(statement(key("a2"), "gov"))
    assert home.run() == Wait("DirectoryPending")
    home.put_in_force()
    home.run()
    assert home.active == key("a3")
    assert key("a2") not in home.key_ids()


def test_a_retiring_key_that_is_revoked_is_dropped_at_once() -> None:
    home = Home(generation=2)
    home.run()
    home.put_in_force()
    home.run()
    home.signs_with = key("a2")
    assert isinstance(home.run(), Wait)
    home.revocations.append(statement(key("a"), "gov"))
    assert home.run() == Wait("DirectoryPending")
    home.put_in_force()
    assert home.key_ids() == [key("a2")]


def test_a_revoked_governance_key_is_replaced_in_one_epoch() -> None:
    home = Home(Purpose.GOVERNANCE)
    home.run()
    home.revocations.append(statement(key("gov"), "gov"))
    assert home.run() == Wait("DirectoryPending")
    home.put_in_force()
    assert home.run() == Done()
    assert home.key_ids() == [key("gov2")]


def test_a_key_of_nobody_waits_to_become_a_member() -> None:
    home = Home()
    home.current = first_directory({"b": 1})
    assert home.run() == Wait("NotAMember", ("a",))
    assert home.states() == [KeyState.PENDING]


def test_a_lost_private_key_is_made_again_and_the_old_one_retired() -> None:
    home = Home()
    home.run()
    home.material[1] = KeyMaterial(1, signer("a-again").public_key)
    assert home.run() == Wait("DirectoryPending")
    home.put_in_force()
    home.run()
    assert home.active == key("a-again")


@pytest.mark.parametrize("purpose", list(Purpose))
def test_it_continues_from_every_point_where_it_may_be_stopped(purpose: Purpose) -> None:
    """Notes are lost before every decision, and directories take force one decision late."""
    home = Home(purpose, generation=3)
    for _ in range(60):
        home.progress = Progress(
            signing_key_id=home.progress.signing_key_id, signing_since_ms=home.progress.signing_since_ms
        )
        step = home.run()
        if step == Done():
            break
        home.now_ms += OVERLAP // 2
        home.signs_with = home.active
        if home.pending is not None:
            home.put_in_force()
    assert home.run() == Done()
    assert home.key_ids() == [key(home.name(3))]
    assert home.active == key(home.name(3))

"""Scenarios with the faults that a planted bug needs to do harm, and little else."""

from __future__ import annotations

from agentworld_core.membership.directory import BYZANTINE
from tests.simulation.scenario import AMONG_LIARS_MS, CALM, RECOVERY_MS, Scenario, Weather
from tests.simulation.world import Adjust


def equals(count: int) -> dict[str, int]:
    """Returns that many members of the same weight."""
    return {f"v{number}": 1 for number in range(count)}


def five_with_a_twin(scenario: Scenario) -> Scenario:
    """Five validators, one of them malicious, in a network that falls apart."""
    return scenario.with_(
        members=equals(5),
        fault_model=BYZANTINE,
        faulty=("v4",),
        lies={},
        faults={"split": 1.0},
        weather=CALM,
        every_ms=(1000, 4000),
        leaseless=True,
    )


def four_in_a_storm(scenario: Scenario) -> Scenario:
    """Four honest validators that crash while much is lost, late and damaged."""
    return scenario.with_(
        members=equals(4),
        fault_model=BYZANTINE,
        faulty=(),
        lies={},
        recovery_ms=RECOVERY_MS,
        weather=Weather(loss=0.2, slow=0.3, garble=0.02),
        faults={"crash": 1.0, "lease-away": 0.7, "lease-lost": 0.3, "split": 0.5},
        drift=0.02,
        every_ms=(100, 2500),
    )


def four_in_a_disaster(scenario: Scenario) -> Scenario:
    """The same, and the power goes everywhere."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(leaseless=False, faults={**stormy.faults, "disaster": 1.0})


def four_on_slow_disks(scenario: Scenario) -> Scenario:
    """Four honest validators that crash all the time while their disks are slow."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faults={"crash": 3.0, "slow-disk": 3.0}, weather=Weather(), every_ms=(20, 500))


def four_in_a_noise(scenario: Scenario) -> Scenario:
    """Four honest validators that get every tenth message damaged."""
    return four_in_a_storm(scenario).with_(faults={}, weather=Weather(garble=0.1))


def four_and_a_revoked_twin(scenario: Scenario) -> Scenario:
    """Four validators in a storm, one of them malicious, whose key is revoked."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faulty=("v3",), faults={**stormy.faults, "revoke": 0.5})


def four_and_a_liar(*lies: str) -> Adjust:
    """Returns what gives four validators, one of which tells these lies, while others fall behind."""

    def adjust(scenario: Scenario) -> Scenario:
        stormy = four_in_a_storm(scenario)
        told = dict.fromkeys(lies, 1.0)
        return stormy.with_(
            faulty=("v3",),
            lies=told,
            lies_every_ms=(20, 200),
            faults={"isolate": 1.0, "crash": 0.5},
            weather=Weather(loss=0.1),
        )

    return adjust


def four_and_a_writer_that_is_silent(scenario: Scenario) -> Scenario:
    """Four validators, one of which proposes nothing and keeps the lease once it has it."""
    lying = four_and_a_liar("keeps-the-lease")(scenario)
    return lying.with_(leaseless=False, faults={"lease-lost": 1.0, "crash": 1.0})


def four_and_a_whisperer(scenario: Scenario) -> Scenario:
    """Four validators, one of which votes for no block and leads another one astray while that one is cut off."""
    lying = four_and_a_liar("whispers", "withheld-votes")(scenario)
    return lying.with_(
        leaseless=False, faults={"isolate": 1.0}, weather=CALM, every_ms=(2000, 6000), recovery_ms=AMONG_LIARS_MS
    )


def four_and_a_lease_that_is_lost(scenario: Scenario) -> Scenario:
    """Four validators, one of which votes for no block, while somebody deletes the lease and edits it by hand."""
    lying = four_and_a_liar("withheld-votes")(scenario)
    faults = {"lease-lost": 1.0, "lease-edit": 1.0, "isolate": 1.0, "crash": 1.0}
    return lying.with_(faults=faults, weather=CALM, every_ms=(20, 500), leaseless=False)


def taking_turns_with_a_liar(scenario: Scenario) -> Scenario:
    """Four validators that propose in turn, one of them wrong blocks."""
    return four_and_a_liar("invalid-blocks")(scenario).with_(leaseless=True)


def four_that_change(scenario: Scenario) -> Scenario:
    """Four honest validators in calm weather under a governance that is never content."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faults={"membership": 1.0}, weather=Weather(), every_ms=(100, 600), leaseless=False)


def heavy_ones(scenario: Scenario) -> Scenario:
    """Four validators, one of which weighs as much as all others, in a network that falls apart."""
    return four_in_a_storm(scenario).with_(members={"v0": 3, "v1": 1, "v2": 1, "v3": 1}, faults={"split": 1.0})


def a_lease_that_comes_and_goes(scenario: Scenario) -> Scenario:
    """Four honest validators and a lease service that does not answer every other second."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faults={"lease-away": 1.0}, weather=CALM, every_ms=(500, 1500), leaseless=False)


def a_writer_that_changes(scenario: Scenario) -> Scenario:
    """Four honest validators that lose the lease again and again, so that some lock on a block and others do not."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faults={"lease-lost": 1.0}, every_ms=(50, 300), leaseless=False)


def four_and_a_rare_twin(scenario: Scenario) -> Scenario:
    """Four validators, one of which is malicious, in a world with little to do, where messages come late."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(
        faulty=("v3",),
        faults={"crash": 0.5, "isolate": 1.0},
        weather=Weather(slow=0.3),
        every_ms=(1000, 4000),
        chaos_ms=5000,
        pauses_between_actions=(2000,),
    )


def four_that_govern(scenario: Scenario) -> Scenario:
    """Four honest validators that crash now and then, under a governance that changes the modules of the world."""
    return four_in_a_storm(scenario).with_(faults={"crash": 1.0}, weather=Weather(loss=0.05), governs=True)


def four_that_hand_over(scenario: Scenario) -> Scenario:
    """Four honest validators that hand the writer's lease over all the time."""
    stormy = four_in_a_storm(scenario)
    return stormy.with_(faults={"hand-over": 1.0}, weather=CALM, every_ms=(300, 1500), leaseless=False)


def seven_and_a_twin(scenario: Scenario) -> Scenario:
    """Seven validators, one of which is malicious, where much is lost and little is to be decided."""
    rare = four_and_a_rare_twin(scenario)
    return rare.with_(members=equals(7), faulty=("v6",), faults={"isolate": 1.0}, weather=Weather(loss=0.3))

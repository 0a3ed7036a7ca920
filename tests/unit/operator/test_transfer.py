"""The writer is changed by an annotation of the World, and what somebody does to the Lease by hand is told."""

from __future__ import annotations

import pytest

from agentworld_operator.reconcile.transfer import TRANSFER_TO
from tests.unit.operator.harness import Harness, running

LEASE = "aurora-sequencer"
EVERYBODY = ["aurora-0", "aurora-1", "aurora-2", "aurora-3", "aurora-gateway-0"]


def ask(harness: Harness, target: str) -> None:
    """Does what ``kubectl annotate`` does."""
    harness.kube.merge("World", "aurora", {"metadata": {"annotations": {TRANSFER_TO: target}}})


def is_asked(harness: Harness) -> bool:
    """True while the annotation is there."""
    return TRANSFER_TO in (harness.kube.read("World", "aurora")["metadata"].get("annotations") or {})


def edit(harness: Harness, **spec: object) -> None:
    """Does what ``kubectl edit lease`` does."""
    harness.kube.merge("Lease", LEASE, {"spec": spec})


async def test_the_holder_hands_over_and_the_annotation_goes() -> None:
    harness = await running(4)
    assert harness.world["sequencer"]["holder"] == "aurora-0"
    ask(harness, "aurora-2")
    await harness.settle()
    assert harness.nodes.asked_to_hand_over == ["aurora-0"], "the holder is asked, once"
    assert (harness.world["sequencer"]["holder"], harness.world["sequencer"]["term"]) == ("aurora-2", 2)
    assert harness.events("WriterTransferred") == [
        "WriterTransferred: aurora-2 writes instead of aurora-0, in term 2, as the World asked"
    ]
    assert not is_asked(harness)
    assert harness.condition("World", "aurora", "Progressing") == ("False", "AsExpected")


async def test_a_validator_with_an_id_of_its_own_is_named_by_its_resource_or_its_id() -> None:
    harness = await running(3)
    harness.apply("Validator", "hand", world="aurora", validatorId="right-hand")
    await harness.settle()
    for name in ("hand", "aurora-0", "right-hand"):
        ask(harness, name)
        await harness.settle()
        assert harness.world["sequencer"]["holder"] == {"aurora-0": "aurora-0"}.get(name, "right-hand")


async def test_who_writes_already_is_no_refusal() -> None:
    harness = await running(4)
    ask(harness, "aurora-0")
    await harness.settle()
    assert harness.nodes.asked_to_hand_over == []
    assert harness.events("WriterTransferred") == ["WriterTransferred: aurora-0 writes, in term 1"]
    assert not is_asked(harness)


async def test_a_refusal_is_told_once_and_nothing_changes() -> None:
    harness = await running(4)
    harness.nodes.unfit["aurora-1"] = "12 blocks behind"
    wishes = {
        "aurora-9": "no Validator of this World is called aurora-9; there are aurora-0, aurora-1, aurora-2, aurora-3",
        "": "names no Validator; there are aurora-0, aurora-1, aurora-2, aurora-3",
        "aurora-1": "cannot write now: 12 blocks behind",
    }
    for target, why in wishes.items():
        ask(harness, target)
        await harness.settle()
        told = (
            f"TransferRefused: the writer lease does not go to {target or 'anybody'}: {why}. The annotation is removed"
        )
        assert harness.events("TransferRefused")[-1] == told
        assert not is_asked(harness)
    assert len(harness.events("TransferRefused")) == len(wishes)
    assert (harness.world["sequencer"]["holder"], harness.world["sequencer"]["term"]) == ("aurora-0", 1)


async def test_a_newcomer_that_is_no_member_yet_is_refused() -> None:
    harness = await running(4)
    harness.nodes.slow_sync = ["aurora-4"]
    harness.kube.merge("World", "aurora", {"spec": {"validators": {"replicas": 5}}})
    await harness.settle()
    ask(harness, "aurora-4")
    await harness.settle()
    assert "aurora-4 is no member of the directory of epoch" in harness.events("TransferRefused")[-1]


async def test_it_waits_for_a_writer_and_says_so() -> None:
    harness = await running(4)
    harness.nodes.unreachable = EVERYBODY
    ask(harness, "aurora-2")
    await harness.once()
    assert is_asked(harness)
    assert harness.condition("World", "aurora", "Progressing") == ("True", "WriterTransfer")
    harness.nodes.unreachable = []
    edit(harness, holderIdentity="")
    await harness.once()
    assert harness.message("World", "aurora", "Progressing") == (
        "the writer lease is to go to aurora-2: nobody holds the Lease"
    )
    await harness.settle()
    assert harness.world["sequencer"]["holder"] == "aurora-2"
    assert not is_asked(harness)


async def test_a_node_that_does_not_answer_is_passed_over() -> None:
    harness = await running(4)
    harness.nodes.silent_to_transfers = ["aurora-0"]
    ask(harness, "aurora-3")
    await harness.settle()
    assert harness.world["sequencer"]["holder"] == "aurora-3"


async def test_a_paused_world_keeps_its_writer() -> None:
    harness = await running(4)
    harness.kube.merge("World", "aurora", {"spec": {"paused": True}})
    ask(harness, "aurora-2")
    await harness.settle()
    assert is_asked(harness)
    assert harness.world["sequencer"]["holder"] == "aurora-0"
    harness.kube.merge("World", "aurora", {"spec": {"paused": False}})
    await harness.settle()
    assert harness.world["sequencer"]["holder"] == "aurora-2"


async def test_without_the_governance_secret_it_is_refused() -> None:
    harness = await running(4)
    harness.kube.remove("Secret", "aurora-governance-g1")
    ask(harness, "aurora-2")
    await harness.settle()
    assert "it cannot be signed" in harness.events("TransferRefused")[-1]
    assert "restore the Secrets of the governance keys" in harness.events("TransferRefused")[-1]
    assert harness.world["sequencer"]["holder"] == "aurora-0"


async def test_an_operator_killed_at_any_write_hands_over_once() -> None:
    for place in (1, 2, 3):
        harness = await running(4)
        ask(harness, "aurora-2")
        harness.kube.kill_at = len(harness.kube.writes) + place
        await harness.settle()
        assert (harness.world["sequencer"]["holder"], harness.world["sequencer"]["term"]) == ("aurora-2", 2)
        assert harness.events("WriterTransferred")
        assert not is_asked(harness)


@pytest.mark.box("S5.3", "unknown-holder")
async def test_a_stranger_in_the_lease_is_named_and_is_no_writer() -> None:
    harness = await running(4)
    edit(harness, holderIdentity="somebody", leaseTransitions=4)
    await harness.once()
    assert harness.condition("World", "aurora", "Degraded") == ("True", "UnknownWriter")
    assert "names somebody, which is no validator" in harness.events("UnknownWriter")[-1]
    assert harness.world["sequencer"].get("holder", "") == ""
    assert len(harness.events("WriterChanged")) == 1, "a stranger orders nothing"
    await harness.settle()
    assert harness.condition("World", "aurora", "Degraded") == ("False", "AsExpected")
    assert harness.world["sequencer"]["holder"] == "aurora-0"


async def test_a_lowered_term_is_told() -> None:
    harness = await running(4)
    edit(harness, leaseTransitions=6)
    await harness.settle()
    edit(harness, leaseTransitions=1)
    await harness.once()
    assert harness.condition("World", "aurora", "Degraded") == ("True", "LeaseEdited")
    assert "says term 2 after it was in term 7" in harness.events("LeaseEdited")[-1]
    assert not [event for event in harness.events("WriterChanged") if "term 2" in event]


@pytest.mark.box("S5.3", "deleted")
async def test_a_lease_that_was_deleted_is_told_when_it_is_made_again() -> None:
    harness = await running(4)
    assert harness.events("LeaseMadeAgain") == [], "the first one is no news"
    harness.nodes.unreachable = EVERYBODY
    harness.nodes.term = 0
    edit(harness, leaseTransitions=6)
    await harness.once()
    harness.kube.remove("Lease", LEASE)
    await harness.once()
    # No node answers, so the last term comes from the stored status; the fake nodes have then taken the lease.
    assert harness.kube.read("Lease", LEASE)["spec"]["leaseTransitions"] == 7
    assert harness.events("LeaseMadeAgain") == [
        "LeaseMadeAgain: Lease aurora-sequencer was deleted and is made again; a validator takes it in a term above 7"
    ]


async def test_a_validator_joins_by_the_directory_in_force_whatever_its_node_says() -> None:
    harness = await running(4)
    assert harness.events("ValidatorJoined")
    assert all("directory of epoch 1" in event for event in harness.events("ValidatorJoined"))

"""What people are told about a world that runs."""

from __future__ import annotations

import dataclasses
import io
import json

from rich.console import Console

from agentworld_node.cli.world_view import PlainView, headline, key_rows, world_table
from agentworld_node.supervisor.state import KeyState, NodeState, RevocationState, WorldState, differences

NODE = NodeState(name="aurora-0", node_id="aurora-0", kind="validator", phase="Voting", pid=1, height=7, epoch=1)
KEY = KeyState(
    name="aurora-0",
    purpose="Validator",
    validator="aurora-0",
    active_key_id="a" * 32,
    generations=({"key_id": "a" * 32, "generation": 1, "state": "Active"},),
)
STATE = WorldState(
    world="aurora",
    world_id="aurora",
    genesis_hash="ab" * 32,
    gateway="http://127.0.0.1:8080",
    data="/data",
    phase="Running",
    height=7,
    state_root="cd" * 32,
    writer="aurora-0",
    term=1,
    epoch=1,
    voting=1,
    members=1,
    nodes=(NODE,),
    keys=(KEY,),
    revocations=(RevocationState(key_id="b" * 32, reason="lost", applied_by=1, pending_nodes=()),),
)


def after(**changes: object) -> list[str]:
    return differences(STATE, dataclasses.replace(STATE, **changes))  # type: ignore[arg-type]


def test_the_state_survives_the_way_to_the_command_line() -> None:
    assert WorldState.from_dict(json.loads(json.dumps(STATE.as_dict()))) == STATE


def test_heights_alone_are_no_news() -> None:
    assert after(height=8, state_root="00" * 32, nodes=(dataclasses.replace(NODE, height=8),)) == []


def test_every_change_of_fact_is_a_sentence() -> None:
    assert after(nodes=(dataclasses.replace(NODE, phase="Failed", message="exit code 3"),)) == [
        "validator aurora-0: failed (exit code 3)"
    ]
    assert after(nodes=(dataclasses.replace(NODE, restarts=1),)) == ["validator aurora-0 was started again"]
    assert after(nodes=()) == ["validator aurora-0 has left"]
    assert after(writer="aurora-1", term=2) == ["aurora-1 writes, term 2"]
    assert after(epoch=2) == ["directory epoch 2 is in force"]
    assert after(keys=(dataclasses.replace(KEY, active_key_id="c" * 32),)) == [
        f"aurora-0 signs with the key {'c' * 32}"
    ]
    assert after(keys=(dataclasses.replace(KEY, active_key_id=""),)) == []
    assert after(problems=("disk full",)) == ["problem: disk full"]
    assert after(notes=("waiting",)) == ["waiting"]
    assert after(phase="NoQuorum") == ["world aurora: noquorum"]
    assert after(stalled=True, progress="nobody holds the writer lease") == ["stalled: nobody holds the writer lease"]
    assert after(progress="idle: no actions wait") == []
    stuck = dataclasses.replace(STATE, stalled=True, progress="nobody holds the writer lease")
    assert differences(stuck, STATE) == ["no longer stalled"]
    solved = differences(dataclasses.replace(STATE, problems=("disk full",)), STATE)
    assert solved == ["no longer: disk full"]


def test_a_revocation_is_told_by_who_has_yet_to_confirm_it() -> None:
    pending = RevocationState(key_id="d" * 32, reason="lost", applied_by=1, pending_nodes=("aurora-1",))
    assert after(revocations=(*STATE.revocations, pending)) == [
        f"key {'d' * 32} is revoked, not yet confirmed by aurora-1"
    ]
    confirmed = dataclasses.replace(pending, applied_by=2, pending_nodes=())
    assert differences(
        dataclasses.replace(STATE, revocations=(pending,)), dataclasses.replace(STATE, revocations=(confirmed,))
    ) == [f"key {'d' * 32} is revoked, confirmed by all 2 nodes"]
    fewer = dataclasses.replace(STATE.revocations[0], applied_by=0)
    assert after(revocations=(fewer,)) == [], "who has left need not confirm"


def test_a_pipe_gets_one_line_a_change() -> None:
    lines: list[str] = []
    with PlainView(lines.append) as view:
        view.show(STATE)
        view.show(dataclasses.replace(STATE, height=8))
        view.show(dataclasses.replace(STATE, height=8, epoch=2))

    assert len(lines) == 2
    assert lines[0].endswith("height 7, writer aurora-0 (term 1), validators 1/1, epoch 1, state root cdcdcdcdcdcd")
    assert lines[1].endswith("directory epoch 2 is in force")


def test_the_table_shows_every_node_whatever_its_message_holds() -> None:
    failed = dataclasses.replace(NODE, phase="Failed", message="it said [/red] and [bold]")
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(world_table(dataclasses.replace(STATE, nodes=(failed,), pending_epoch=2)))
    text = console.export_text()

    assert "World aurora: running, height 7, writer aurora-0 (term 1), validators 1/1, epoch 1 (2 on its way)" in text
    assert "Failed" in text
    assert "it said [/red] and [bold]" in text


def test_a_key_has_a_row_for_each_generation() -> None:
    assert key_rows(STATE) == [("aurora-0", "aurora-0", 1, "a" * 32, "Active", "")]
    assert headline(STATE).startswith("height 7")

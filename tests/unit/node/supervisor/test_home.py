"""The folder of a world: whole files, for their owner alone, and one supervisor at a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest

from agentworld_client import keys as key_files
from agentworld_core.errors import InvalidField, NotAvailable
from agentworld_node.supervisor.home import WorldHome, write_file
from agentworld_node.supervisor.ports import free_port, is_free
from agentworld_node.supervisor.processes import last_line, start_time
from agentworld_node.supervisor.record import (
    AlreadyRuns,
    Lock,
    SupervisorRecord,
    find_supervisor,
    is_running,
    remove_record,
    running_supervisor,
    write_record,
)
from tests.unit.node.supervisor.fakes import OneMachine, declared, world

RECORD = SupervisorRecord(pid=1, url="http://127.0.0.1:1", token="t", world="aurora", gateway="", version="0")


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("")

    with pytest.raises(InvalidField, match=r"--data: is not empty and holds no world .*; name an empty folder"):
        WorldHome(tmp_path).prepare()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InvalidField, match="--data: cannot be used"):
        WorldHome(tmp_path / "file").prepare()


def test_a_key_that_somebody_brings_is_used(tmp_path: Path) -> None:
    mine = key_files.generate()
    key_files.save(mine, tmp_path / "w/keys/aurora-0/g1.pem")

    machine = OneMachine(tmp_path / "w", declared(world(1)))

    assert machine.home.ring("aurora-0").active_key_id == mine.key_id
    genesis = machine.home.genesis()
    assert genesis is not None
    assert genesis.directory.members[0].keys[0].key_id == mine.key_id


def test_what_is_lost_about_a_key_ring_only_begins_anew(tmp_path: Path) -> None:
    machine = OneMachine(tmp_path, declared(world(1)))
    ring = machine.home.ring("aurora-0")
    (tmp_path / "keys/aurora-0/ring.json").unlink()

    assert machine.home.ring("aurora-0") == ring


@pytest.mark.parametrize("name", ["world.json", "genesis.cbor", "next-directory.cbor", "revocations/x.cbor"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path: Path, name: str) -> None:
    home = WorldHome(tmp_path)
    write_file(tmp_path / name, b"{damaged")

    with pytest.raises(InvalidField, match=r"is damaged: .*; restore it, or begin anew in another folder") as caught:
        _ = (home.manifests(), home.genesis(), home.waiting_directory(), home.statements())
    assert caught.value.field == str(tmp_path / name)


def test_a_damaged_node_configuration_is_named(tmp_path: Path) -> None:
    write_file(tmp_path / "nodes/aurora-0/config.json", b'{"world_id": "aurora", "speed": 9}')

    with pytest.raises(InvalidField, match="is damaged: speed: is not a setting"):
        WorldHome(tmp_path).node_configs()


def test_files_are_written_only_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"

    assert [write_file(path, b"a"), write_file(path, b"a"), write_file(path, b"b")] == [True, False, True]
    assert path.read_bytes() == b"b"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_one_supervisor_holds_the_lock(tmp_path: Path) -> None:
    first, second = Lock(tmp_path), Lock(tmp_path)
    assert not is_running(tmp_path)
    first.acquire()

    assert is_running(tmp_path)
    with pytest.raises(AlreadyRuns, match=r"a supervisor \(process \d+\) runs the world of this folder already"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_the_record_of_a_dead_supervisor_counts_as_none(tmp_path: Path) -> None:
    write_record(tmp_path, RECORD)
    assert (tmp_path / "supervisor.json").stat().st_mode & 0o777 == 0o600
    assert find_supervisor(tmp_path) is None
    with pytest.raises(NotAvailable, match="no supervisor runs the world of this folder"):
        running_supervisor(tmp_path)

    lock = Lock(tmp_path)
    lock.acquire()
    assert running_supervisor(tmp_path) == RECORD
    remove_record(tmp_path)
    with pytest.raises(NotAvailable, match="still starting"):
        running_supervisor(tmp_path)
    (tmp_path / "supervisor.json").write_text(json.dumps({"pid": 1}))
    assert find_supervisor(tmp_path) is None
    lock.release()


def test_the_record_of_a_killed_supervisor_is_not_taken_for_that_of_the_next_one(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as killed:
        pass
    write_record(tmp_path, dataclasses.replace(RECORD, pid=killed.pid))
    lock = Lock(tmp_path)
    lock.acquire()

    with pytest.raises(NotAvailable, match="still starting"):
        running_supervisor(tmp_path)
    lock.release()


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()

    assert is_free(port)
    assert port < max(lowest, 32_768)


def test_processes_are_told_apart_by_when_they_began() -> None:
    assert start_time(1) is not None
    assert start_time(2**22 + 1) is None


def test_the_last_line_of_a_log_says_why_a_node_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert last_line(path) == ""
    path.write_text("x" * 5000 + "\nTraceback\nValueError: no\n\n")
    assert last_line(path) == "ValueError: no"

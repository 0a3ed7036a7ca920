"""The decisions of the tool that need no cluster."""

from __future__ import annotations

import ipaddress
import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509

from localcluster import cli, images, kind, pki, slots
from localcluster import node as nodes
from localcluster.commands import ClusterError, uninterrupted, wait_until
from localcluster.node import Node, together
from localcluster.processes import Processes, everyone, stat_of
from localcluster.settings import MAX_NODES, Addresses, folders


def networks(addresses: Addresses) -> list[ipaddress.IPv4Network]:
    texts = (addresses.node_network, addresses.pod_network, addresses.service_network)
    return [ipaddress.IPv4Network(text) for text in texts]


def test_slots_share_no_port_device_or_address() -> None:
    every = [Addresses(slot) for slot in range(slots.SLOTS)]
    ports = [port for addresses in every for port in addresses.ports.values()]
    assert len(set(ports)) == len(ports)
    for one, two in itertools.combinations([network for addresses in every for network in networks(addresses)], 2):
        assert not one.overlaps(two)
    names = [addresses.bridge for addresses in every]
    names += [addresses.veth(node) for addresses in every for node in range(1, MAX_NODES + 1)]
    assert len(set(names)) == len(names)
    assert max(len(name) for name in names) <= 15  # what the kernel takes


def test_addresses_of_a_slot_lie_in_its_networks() -> None:
    addresses = Addresses(3)
    nodes, pods, services = networks(addresses)
    for node in range(1, MAX_NODES + 1):
        assert ipaddress.IPv4Address(addresses.node_ip(node)) in nodes
        assert ipaddress.IPv4Network(addresses.pods_of(node)).subnet_of(pods)
    assert ipaddress.IPv4Address(addresses.host_ip) in nodes
    assert {ipaddress.IPv4Address(ip) in services for ip in (addresses.dns_ip, addresses.kubernetes_ip)} == {True}


def test_a_slot_is_not_free_while_its_network_is_routed_elsewhere() -> None:
    addresses = Addresses(slots.SLOTS - 1)
    assert not slots.is_free(addresses, [ipaddress.IPv4Network("10.0.0.0/8")])


def test_a_cluster_keeps_its_slot_and_gives_it_back_with_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(slots, "_routes", list)
    monkeypatch.setattr(slots, "is_free", lambda addresses, routes: addresses.slot != 1)
    one, two, three = folders("one"), folders("two"), folders("three")
    assert [slots.claim(each).slot for each in (one, two, one)] == [0, 2, 0]
    (one.state / "slot").unlink()
    assert slots.claim(three).slot == 0


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a" * 33, "a.b"])
def test_names_that_could_not_name_folders_and_groups_are_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="name"):
        folders(name)


@pytest.mark.parametrize(
    ("image", "completed"),
    [
        ("agent-world/node", "localhost/agent-world/node:latest"),
        ("node:dev", "localhost/node:dev"),
        ("localhost/a/b:1", "localhost/a/b:1"),
        ("example.org:5000/a", "example.org:5000/a:latest"),
    ],
)
def test_image_names_are_completed(image: str, completed: str) -> None:
    assert images.reference(image) == completed


def test_everything_behind_kubectl_is_handed_on() -> None:
    words = ["--name", "x", "kubectl", "-n", "kube-system", "--name", "get"]
    assert cli._split(words) == (["--name", "x", "kubectl"], ["-n", "kube-system", "--name", "get"])
    assert cli._split(["logs", "kubectl"]) == (["logs", "kubectl"], [])
    assert cli._split(["--name", "kubectl", "helm", "list"]) == (["--name", "kubectl", "helm"], ["list"])


def test_kind_gives_the_control_plane_a_node_of_its_own_only_when_there_are_more() -> None:
    assert kind.configuration(1).count("role:") == 1
    assert kind.configuration(2).count("role: worker") == 2


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(pids=tmp_path / "pids", logs=tmp_path / "log", path=os.environ["PATH"])
    yield made
    made.stop(made.names(), seconds=0)


def test_a_process_is_stopped_and_forgotten(processes: Processes) -> None:
    pid = processes.spawn("one", ["sleep", "60"])
    assert processes.alive("one")
    processes.stop(["one"], seconds=5)
    assert stat_of(pid) is None
    assert processes.names() == []


def test_what_a_killed_run_had_not_recorded_is_found_and_nothing_else(processes: Processes) -> None:
    kept = processes.spawn("kept", ["bash", "-c", "sleep 60; true"], nested=True)
    with (
        subprocess.Popen(["sleep", "60"], env=processes.environment, start_new_session=True) as stray,
        subprocess.Popen(["sleep", "60"], env=processes.environment) as other,
    ):
        processes.stop_unrecorded()
        assert stray.wait(10) == -signal.SIGKILL
        assert other.wait(10) == -signal.SIGKILL
    with subprocess.Popen(["sleep", "60"]) as stranger:
        processes.stop_unrecorded()
        assert stranger.poll() is None
        stranger.kill()
    inner = stat_of(kept)
    assert inner is not None
    assert stat_of(inner.parent) is not None, "it would have another parent, which is not ours, if its own were gone"
    assert inner.parent == inner.session


def test_a_process_that_ignores_sigterm_is_killed(processes: Processes) -> None:
    pid = processes.spawn("deaf", ["bash", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"])
    wait_until(lambda: processes.tail("deaf") == "ready", what="the trap", seconds=10)
    processes.stop(["deaf"], seconds=0)
    assert stat_of(pid) is None


def test_a_process_is_frozen_thawed_and_killed_by_its_name(processes: Processes) -> None:
    pid = processes.spawn("one", ["sleep", "60"])

    def comes_to(states: str) -> None:
        wait_until(lambda: _state(pid) in states, what=f"a state of {states}", seconds=10)

    processes.signal("one", signal.SIGSTOP)
    comes_to("T")
    processes.signal("one", signal.SIGCONT)
    comes_to("SR")
    processes.signal("one", signal.SIGKILL)
    comes_to("-")
    with pytest.raises(ClusterError, match="one does not run; there are one"):
        processes.signal("one", signal.SIGCONT)


def _state(pid: int) -> str:
    stat = stat_of(pid)
    return "-" if stat is None else stat.state


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


def test_another_process_with_the_recorded_id_is_left_alone(
    processes: Processes, stranger: subprocess.Popen[bytes]
) -> None:
    processes.record("mine", stranger.pid)
    path = processes.pids / "mine"
    pid, start, boot = path.read_text().split()
    for forged in (f"{pid} {int(start) - 1} {boot}", f"{pid} {start} another-boot"):
        path.write_text(forged)
        assert not processes.alive("mine")
        processes.stop(["mine"], seconds=0)
        assert not path.exists()
        assert stranger.poll() is None


def test_children_end_with_a_leader_that_is_already_gone(processes: Processes) -> None:
    leader = processes.spawn("tree", ["bash", "-c", "sleep 60 & echo forked; wait"])
    wait_until(lambda: processes.tail("tree") == "forked", what="the child", seconds=10)
    os.kill(leader, 9)
    wait_until(lambda: not processes.alive("tree"), what="the leader to end", seconds=10)
    assert [pid for pid, stat in everyone() if stat.session == leader]
    processes.stop(["tree"], seconds=0)
    assert [pid for pid, stat in everyone() if stat.session == leader] == []


def test_what_ends_at_once_is_reported_with_its_last_words(processes: Processes) -> None:
    def start_and_ask() -> None:
        # On a busy machine this may see the end itself.
        processes.spawn("brief", ["bash", "-c", "echo no such luck; exec sleep 0"])
        wait_until(lambda: not processes.alive("brief"), what="its end", seconds=10)
        processes.pid("brief")

    with pytest.raises(ClusterError, match="no such luck"):
        start_and_ask()


def test_a_lock_file_that_was_removed_meanwhile_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with slots.locked(path, waiting_for="nobody"):
        path.unlink()
        with slots.locked(path, waiting_for="nobody"):
            assert path.exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C is heard of, as at a terminal: who is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_waits_for_the_end_of_the_block() -> None:
    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_while_holding(ended)
    assert ended == ["the block"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def interrupted_while_holding(ended: list[str]) -> None:
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        ended.append("the block")
    ended.append("what follows")


@pytest.mark.usefixtures("interruptible")
def test_work_on_a_node_has_ended_when_an_interruption_during_its_start_is_heard_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, given_up, ended = threading.Thread.start, threading.Event(), threading.Event()

    def start_and_interrupt(thread: threading.Thread) -> None:
        start(thread)
        signal.raise_signal(signal.SIGINT)

    def work(_node: Node) -> None:
        given_up.wait(timeout=0.1)  # long enough that whoever does not wait for the work is seen not to
        if not given_up.is_set():
            ended.set()

    one = Node.__new__(Node)
    monkeypatch.setattr(threading.Thread, "start", start_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        together([one], work)
    given_up.set()
    assert ended.is_set()


@pytest.mark.parametrize("gone", [True, False])
def test_a_device_that_goes_by_itself_is_removed_and_one_that_stays_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    device = tmp_path / "aw0n1"
    device.touch()

    def fails(_command: list[str]) -> None:
        if gone:
            device.unlink()
        raise ClusterError("Cannot find device")

    monkeypatch.setattr(nodes, "DEVICES", tmp_path)
    monkeypatch.setattr(nodes, "run", fails)
    if gone:
        nodes.remove_device("aw0n1")
        nodes.remove_device("never")
    else:
        with pytest.raises(ClusterError):
            nodes.remove_device("aw0n1")


def test_nodes_made_side_by_side_get_certificates_with_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there, addresses = folders("test-a"), Addresses(1)
    pki.create(there, addresses)
    with ThreadPoolExecutor(MAX_NODES) as pool:
        list(pool.map(lambda node: pki.create_node(there, addresses, node), range(1, MAX_NODES + 1)))
    certificates = [x509.load_pem_x509_certificate(path.read_bytes()) for path in there.pki.glob("*.crt")]
    assert len({certificate.serial_number for certificate in certificates}) == len(certificates) > MAX_NODES
    authority = x509.load_pem_x509_certificate((there.pki / "ca.crt").read_bytes())
    for certificate in certificates:
        certificate.verify_directly_issued_by(authority)

"""The file that keeps waiting actions over a clean stop: whole or not at all, and never a reason not to start."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentworld_core.codec import encode, encode_value
from agentworld_core.hashing import digest
from agentworld_node.ledger import Ledger
from agentworld_node.pool_file import Kept, PoolDamaged, PoolFile, read_pool
from agentworld_node.store.check import check
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.world.agents import register
from tests.unit.storage.faults import CrashDisk, PowerCut

OLD = [Kept(action=register("ada"), source="client 192.0.2.1", waited_ms=7, own=True)]
NEW = [*OLD, Kept(action=register("bob"), source="peer p", waited_ms=0, own=False, accepted_at_ms=1234)]


def signed(document: object) -> bytes:
    body = encode_value(document)  # type: ignore[arg-type]
    return digest(body) + body


def document(**changes: object) -> bytes:
    return signed({"format": "agentworld-pool-1", "world": "aurora", "actions": [], **changes})


def item(**changes: object) -> dict[str, object]:
    return {"action": encode(register("ada")), "source": "client 192.0.2.1", "waited_ms": 7, "own": True, **changes}


@pytest.mark.box("S5.1", "kept-over-a-stop")
def test_what_is_written_is_read_back_and_stays_until_it_is_removed(tmp_path: Path) -> None:
    file = PoolFile(tmp_path / "pool.cbor", "aurora")
    assert file.load() == []
    file.write(OLD)
    file.write(NEW)
    assert file.load() == file.load() == NEW
    assert os.listdir(tmp_path) == ["pool.cbor"]
    file.remove()
    file.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("times", [{}, {"accepted_at_ms": None}])
def test_a_file_that_does_not_say_when_its_actions_were_accepted_is_read(
    tmp_path: Path, times: dict[str, object]
) -> None:
    path = tmp_path / "pool.cbor"
    path.write_bytes(document(actions=[item(**times)]))
    assert PoolFile(path, "aurora").load() == OLD


@pytest.mark.box("S5.1", "kept-file")
@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:20],
        lambda data: data[:-1],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: signed([]),
        lambda data: signed({}),
        lambda data: document(format="agentworld-pool-9"),
        lambda data: document(world="mars"),
        lambda data: document(actions=[{"action": b"garbage", "source": "", "waited_ms": 0, "own": True}]),
        lambda data: document(actions=[item(waited_ms="5")]),
        lambda data: document(actions=[item(waited_ms=-5)]),
        lambda data: document(actions=[item(waited_ms=2**64 - 1)]),
        lambda data: document(actions=[item(accepted_at_ms="5")]),
        lambda data: document(actions=[item(accepted_at_ms=2**64 - 1)]),
        lambda data: document(actions=[item(own="no")]),
        lambda data: document(actions=[item(source=7)]),
        lambda data: document(actions=[7]),
        lambda data: document(actions=7),
    ],
)
def test_what_is_damaged_or_foreign_is_set_aside_with_a_warning_that_names_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[bytes], bytes]
) -> None:
    file = PoolFile(tmp_path / "pool.cbor", "aurora")
    for number in (1, 2):
        file.write(NEW)
        spoiled = spoil(file.path.read_bytes())
        file.path.write_bytes(spoiled)
        assert file.load() == []
        assert (tmp_path / f"pool.cbor.damaged-{number}").read_bytes() == spoiled
        assert str(file.path) in caplog.text
        assert file.load() == []


@pytest.mark.box("S5.1", "kept-file")
def test_a_file_that_cannot_be_read_or_moved_is_told_and_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = CrashDisk(tmp_path)
    file = PoolFile(tmp_path / "pool.cbor", "aurora", files=disk)
    file.write(NEW)
    disk.unreadable.add(file.path)

    def refuse(_source: Path, _target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename", refuse)
        assert file.load() == []
    assert "cannot be set aside" in caplog.text
    disk.unreadable.clear()
    assert file.load() == NEW


@pytest.mark.box("S5.1", "kept-file")
@pytest.mark.parametrize("seed", range(8))
def test_a_power_cut_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path: Path, seed: int) -> None:
    operation = 0
    finished = False
    while not finished:
        operation += 1
        disk = CrashDisk(tmp_path, seed=seed)
        file = PoolFile(tmp_path / "pool.cbor", "aurora", files=disk)
        file.write(OLD)
        disk.cut_power_in(operation)
        try:
            file.write(NEW)
            finished = True
        except PowerCut:
            pass
        disk.crash()
        found = file.load()
        assert found in ((NEW,) if finished else (OLD, NEW))
        # What was left of the attempt is in nobody's way.
        file.write(NEW)
        assert file.load() == NEW
    assert operation > 4


def test_when_the_disk_refuses_the_old_file_stays(tmp_path: Path) -> None:
    disk = CrashDisk(tmp_path)
    file = PoolFile(tmp_path / "pool.cbor", "aurora", files=disk)
    file.write(OLD)
    disk.failing_syncs = 1
    with pytest.raises(OSError, match="Input/output"):
        file.write(NEW)
    assert file.load() == OLD


@pytest.mark.box("S5.1", "kept-over-a-stop", "kept-file")
def test_store_check_counts_what_waits_and_tells_a_damaged_file_without_touching_it(tmp_path: Path) -> None:
    Ledger.open(tmp_path, Chain().genesis).close()
    assert (check(tmp_path).waiting, check(tmp_path).pool_problem) == (0, "")
    file = PoolFile(tmp_path / "pool.cbor", "aurora")
    file.write(NEW)
    report = check(tmp_path)
    assert (report.waiting, report.pool_problem, report.is_whole) == (2, "", True)
    file.path.write_bytes(b"garbage")
    report = check(tmp_path)
    assert (report.waiting, report.is_whole) == (0, True)
    assert str(file.path) in report.pool_problem
    assert report.as_dict()["pool_problem"] == report.pool_problem
    with pytest.raises(PoolDamaged):
        read_pool(file.path)

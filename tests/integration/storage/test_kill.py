"""Real processes, real files, SIGKILL at a random moment: every promise that was printed is kept."""

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentworld_core.hashing import content_id
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import FolderLocked, StorageFull
from agentworld_node.storage.index import Index
from agentworld_node.storage.wal import WriteAheadLog
from tests.integration.storage.victim import SEGMENT_BYTES, block, payload

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[3]


def start(kind, folder, seed):
    path = os.pathsep.join((str(REPOSITORY / "node"), str(REPOSITORY)))
    command = [sys.executable, "-m", "tests.integration.storage.victim", kind, str(folder), str(seed)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=REPOSITORY
    )


def promises_until_killed(kind, folder, seed):
    """Starts a writer, kills it after a random number of promises, and returns all that it made."""
    lines = random.Random(seed).randrange(1, 100)
    with start(kind, folder, seed) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        promises = [victim.stdout.readline() for _ in range(lines)]
        victim.send_signal(signal.SIGKILL)
        # What was printed before the signal came counts; the last line may be cut short.
        promises += [line for line in victim.stdout if line.endswith("\n")]
        assert victim.wait(30) == -signal.SIGKILL
    return [line.strip() for line in promises]


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_log_keeps_every_acknowledged_record(tmp_path, seed):
    """Two lives on one folder, so that the second one writes behind what the first one left."""
    acknowledged = 0
    for life in range(2):
        acknowledged = max(map(int, promises_until_killed("log", tmp_path, seed * 2 + life)))
        with WriteAheadLog.open(tmp_path, segment_bytes=SEGMENT_BYTES) as log:
            assert log.last_sequence >= acknowledged
            records = list(log.records())
            assert [record.sequence for record in records] == list(range(1, log.last_sequence + 1))
            for record in records:
                assert (record.kind, record.payload) == ((record.sequence - 1) % 5, payload(record.sequence))


@pytest.mark.box("S2.2", "durable")
@pytest.mark.parametrize("seed", range(5))
def test_a_killed_blob_store_keeps_every_durable_blob(tmp_path, seed):
    hashes = promises_until_killed("blobs", tmp_path, seed)
    store = FileBlobStore.open(tmp_path)
    for blob_hash in hashes:
        assert content_id(store.get(blob_hash)) == blob_hash
    for blob_hash in store.iterate():
        store.get(blob_hash)
    assert store.counters.quarantined == 0
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_index_keeps_every_block_with_its_receipts(tmp_path, seed):
    for life in range(2):
        height = max(map(int, promises_until_killed("index", tmp_path, seed * 2 + life)))
        index, rebuilt = Index.open(tmp_path / "index.sqlite")
        with index:
            assert not rebuilt
            tip = index.tip()
            assert tip is not None
            assert tip.height >= height
            for known in range(1, tip.height + 1):
                entry, receipts = block(known)
                assert index.block_at(known) == entry
                assert index.receipts_of(known) == receipts


def test_a_folder_is_free_again_when_its_process_was_killed(tmp_path):
    with start("log", tmp_path, 1) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        with pytest.raises(FolderLocked):
            WriteAheadLog.open(tmp_path)
        victim.kill()
        victim.wait(30)
    WriteAheadLog.open(tmp_path).close()


@pytest.fixture
def file_size_limit():
    """Lets no file of this process grow beyond a size, which the system tells as it tells a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_log_that_finds_no_room_goes_on_when_there_is_some(tmp_path, file_size_limit):
    unlimited, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    with WriteAheadLog.open(tmp_path) as log:
        log.append(0, b"first")
        log.sync_now()
        size = log.size_bytes
        log.append(0, b"x" * 5_000)
        for limit in (size, size + 1, size + 1_000):
            file_size_limit(limit)
            with pytest.raises(StorageFull):
                log.sync_now()
            file_size_limit(unlimited)
            assert [path.stat().st_size for path in tmp_path.glob("*.wal")] == [size]
        log.sync_now()
    with WriteAheadLog.open(tmp_path) as log:
        assert log.torn is None
        assert [record.payload for record in log.records()] == [b"first", b"x" * 5_000]

"""``agentworld store gc`` and ``store repair`` as processes, killed at a random operation of the disk.

Whatever comes of it, the folder is whole or can be mended, and all that was needed is there with the bytes it had.
``STORE_KILLS=50`` kills each more often.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentworld_node.ledger import Ledger
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.store.check import check
from agentworld_node.store.collect import collect
from agentworld_node.store.repair import repair
from tests.unit.core.ledger.chains import Chain
from tests.unit.node.store.folders import contents, fill, flip_blob, long_chain, lose_blob

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[3]
SEEDS = range(int(os.environ.get("STORE_KILLS", "3")))


@pytest.fixture(scope="module")
def chain() -> Chain:
    return long_chain()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> Path:
    """A folder in whose packs what is needed lies among what is not."""
    folder = tmp_path_factory.mktemp("made") / "data"
    rng = random.Random(5)
    for height in range(2, len(chain.bundles) + 1, 3):
        asyncio.run(fill(folder, chain, retain=2, upto=height))
        store = FileBlobStore.open(folder / "blobs", pack_bytes=3_000)
        store.put_many(rng.randbytes(rng.randrange(300)) for _ in range(20))
        store.put(rng.randbytes(70_000))
        store.close()
    asyncio.run(fill(folder, chain, retain=2))
    return folder


def spoil(folder: Path, names: set[str], seed: int) -> None:
    """Damages and removes some of these blobs."""
    rng = random.Random(seed)
    for name in rng.sample(sorted(names), 12):
        if rng.random() < 0.5:
            flip_blob(folder, name)
        else:
            lose_blob(folder, name)


def run(command: str, folder: Path, *, operation: int) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(REPOSITORY / "node"), str(REPOSITORY)))
    words = [sys.executable, "-m", "tests.integration.storage.caretaker", str(operation), "store", command]
    return subprocess.run(
        [*words, "--data", str(folder)],
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def needed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is left when nothing was killed."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("collected") / "data"))
    assert collect(folder).removed.blobs > 50
    return contents(folder)


@pytest.fixture(scope="module", params=["gc", "repair"])
def command(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def losable(chain: Chain, needed: dict[str, bytes]) -> set[str]:
    """All that is needed but the genesis document, which nobody else has."""
    return set(needed) - {chain.bundles[0].block.prev_block_hash}


@pytest.fixture(scope="module")
def operations(command: str, made: Path, losable: set[str], tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many operations the command takes when nobody kills it."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp(command) / "data"))
    if command == "repair":
        spoil(folder, losable, 0)
    done = run(command, folder, operation=0)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"operations: (\d+)", done.stdout)
    assert found
    assert int(found.group(1)) > 50
    return int(found.group(1))


@pytest.mark.box("S2.4", "killed")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_kill_loses_what_is_needed(
    made: Path,
    chain: Chain,
    needed: dict[str, bytes],
    losable: set[str],
    command: str,
    operations: int,
    seed: int,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "data"))
    if command == "repair":
        spoil(folder, losable, seed)
    at = random.Random(f"{command} {seed}").randrange(1, operations)
    ended = run(command, folder, operation=at)
    says = f"{command}, seed {seed}, killed at operation {at} of {operations}"
    assert ended.returncode in (-signal.SIGKILL, 0), says + ended.stdout + ended.stderr
    report = check(folder)
    if command == "gc":
        assert report.is_whole, f"{says}: {report}"
    assert asyncio.run(repair(folder)).after.is_whole, says
    collect(folder)
    assert contents(folder) == needed, says
    ledger = Ledger.open(folder, chain.genesis)
    assert (ledger.height, ledger.chain.state_root) == (13, chain.state.state_root), says
    assert [ledger.bundle(height) for height in range(1, 14)] == chain.bundles, says
    ledger.close()

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

PROGRAM = """
from agentworld_core.codec import encode
from agentworld_core.hashing import content_id
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.world.agents import action, register

chain = Chain()
names = ["ada", "bob", "eve", "joe"]
chain.commit(*[register(name, at=(number, -number)) for number, name in enumerate(names)])
for nonce in range(1, 7):
    chain.commit(
        *[action(name, "object.create", {"object_id": f"{name}-{nonce}", "data": {"z": nonce, "a": name}}, nonce)
          for name in names],
        *[action(name, "message.send", {"to": names[nonce % 4], "body": [nonce]}, 100 + nonce) for name in names],
        action("ada", "dragon.summon", {}, 50 + nonce),
    )
for bundle in chain.bundles:
    print(bundle.block.height, content_id(encode(bundle)), bundle.block.state_root)
for name in sorted(chain.blobs):
    print(name)
"""


def _run(seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{ROOT / 'node'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.box("S3.2", "same")
def test_two_processes_with_different_hash_seeds_give_the_same_blocks_and_blobs():
    one, other = _run("1"), _run("2")
    assert len(one.splitlines()) > 20
    assert one == other

"""The black box itself: a short run goes well, what it does follows from the seed, and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path

import pytest

from tests.integration.blackbox.isolation import RunFolder, remove_leftovers
from tests.integration.blackbox.machines import RUNNER, Link
from tests.integration.blackbox.nemesis import KINDS, START_SECONDS, plan
from tests.integration.node.cluster_of_nodes import until

NAMES = ("v0", "v1", "v2", "v3")
MODULE = (sys.executable, "-m", "tests.integration.blackbox")
ROOT = Path(__file__).parents[3]
SHORT = "freeze,isolate,kill,disk,clock"


async def start(*words: str) -> asyncio.subprocess.Process:
    pipe, out = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    return await asyncio.create_subprocess_exec(*MODULE, *words, cwd=ROOT, stdout=pipe, stderr=out)


def inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


# What it does takes half a minute; it starts nine processes, which takes what it takes where others are at work.
@pytest.mark.box("S25.1", "one-block")
@pytest.mark.box("S5.3", "clock-off")
@pytest.mark.timeout(900)
async def test_a_short_run_of_faults_loses_doubles_and_forks_nothing(tmp_path: Path) -> None:
    options = {"--seed": "3", "--kinds": SHORT, "--clients": "3", "--patience": "120", "--folder": str(tmp_path)}
    process = await start("--once", *itertools.chain.from_iterable(options.items()))
    said = (await process.communicate())[0].decode()
    print(said)
    assert process.returncode == 0, said
    assert said.splitlines()[-1].startswith("blackbox: ok seed=3 nodes=4")
    assert "faults=5" in said
    assert inside(tmp_path) == []


@pytest.mark.timeout(900)
async def test_a_run_that_is_killed_leaves_no_process_and_a_folder_that_the_next_start_removes(tmp_path: Path) -> None:
    process = await start("--once", "--folder", str(tmp_path))
    marks = [str(tmp_path).encode()]
    try:
        await until(lambda: len(processes_about(marks)) > len(NAMES), "the nodes run", seconds=START_SECONDS)
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not processes_about(marks), "all processes are gone", seconds=START_SECONDS)
    (left,) = inside(tmp_path)
    assert not mounts_below(tmp_path)
    assert remove_leftovers(tmp_path) == [left]
    assert inside(tmp_path) == []


def mounts_below(folder: Path) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]


def processes_about(marks: list[bytes]) -> list[int]:
    """The processes that have one of the marks in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(mark in command for mark in marks):
                found.append(int(entry.name))
    return found


def test_a_folder_in_use_or_without_the_mark_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "of-somebody-else").mkdir()
    with RunFolder(tmp_path, "in-use") as used:
        assert remove_leftovers(tmp_path) == []
        assert used.is_dir()
    assert remove_leftovers(tmp_path) == [used]
    assert [path.name for path in inside(tmp_path)] == ["of-somebody-else"]


def test_what_is_done_follows_from_the_seed() -> None:
    def first(seed: int) -> list[str]:
        return [str(fault) for pair in itertools.islice(plan(seed, NAMES), 200) for fault in pair]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_every_kind_of_fault_comes_before_one_comes_again() -> None:
    kinds = [pair[0].kind for pair in itertools.islice(plan(5, NAMES), 2 * len(KINDS))]
    assert sorted(kinds[: len(KINDS)]) == sorted(kinds[len(KINDS) :]) == sorted(KINDS)


def test_a_link_names_whom_it_does_not_hear_and_spares_the_runner() -> None:
    assert "ip saddr 198.18.0.11 drop" in Link(deaf_to=("198.18.0.11",)).rules()
    assert f"ip saddr != {{ {RUNNER}, 127.0.0.1 }} numgen random mod 100 < 30 drop" in Link(loss=30).rules()
    assert "limit rate over 10 kbytes/second drop" in Link(bytes_per_second=10_000).rules()
    assert "drop" not in Link().rules()

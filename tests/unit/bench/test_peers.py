"""What the benchmarks say of peers: read right, counted right, and failovers that could go wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.bench.cometbft_peer import _sent_at
from tests.bench.failovers import simulate
from tests.bench.processes import LoadRun, cpu_seconds, end_all, free_ports, wait_for


def test_no_failover_lets_a_stale_write_in_and_without_the_fence_all_do():
    fenced, unfenced = simulate(range(40)), simulate(range(40), fenced=False)
    assert fenced.wrong() is None
    assert (fenced.failovers, fenced.stale_accepted, fenced.stale_arrived) == (40, 0, 40)
    assert unfenced.stale_accepted == 40
    assert simulate(range(40)) == fenced


def test_a_simulation_that_finds_nothing_or_two_holders_is_wrong():
    outcome = simulate(range(1))
    outcome.stale_arrived = 0
    assert "teeth" in (outcome.wrong() or "")
    outcome.two_holders = 1
    assert "at the same time" in (outcome.wrong() or "")


def test_when_a_transaction_of_the_load_tool_was_sent():
    stamp = bytes.fromhex("0880b0b5c7061080cab5ee01")  # a timestamp of 1760385024 s and 500000000 ns
    payload = bytes.fromhex("080110e80718fa01") + b"\x22" + bytes([len(stamp)]) + stamp + bytes.fromhex("2a02abcd")
    assert _sent_at(b"a=" + payload.hex().encode()) == pytest.approx(1760385024.5)


def test_what_a_load_came_to():
    run = LoadRun(committed=4, seconds=2.0, cpu=1.0, latencies=(0.4, 0.1, 0.3, 0.2))
    assert (run.cost, run.cpu_cost) == (0.5, 0.25)
    assert (run.latency(0.5), run.latency(0.99)) == (0.3, 0.4)


def test_ports_differ_and_processes_end():
    assert len(set(free_ports(8))) == 8
    assert cpu_seconds([os.getpid()]) > 0
    stubborn = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)",
        ],
        stdout=subprocess.PIPE,
    )
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"1\n"
    end_all([stubborn], seconds=0.1)
    stubborn.stdout.close()
    assert stubborn.returncode == -9
    with pytest.raises(TimeoutError, match="the impossible"):
        wait_for(lambda: False, "the impossible", seconds=0.1)

"""CometBFT as a peer: built from its Go modules below build/peers, run as validators on loopback, loaded with its tool.

Everything is as it ships but for ``create_empty_blocks``, which is off: between the runs of a pair nobody should be
busy. Times are those of the ledger: a transaction carries when it was sent, and the header of the block after it the
weighted median of when the validators voted for its block.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from tests.bench.processes import LoadRun, cpu_seconds, end_all, free_ports, wait_for

SOURCES = Path(__file__).parent / "cometbft"
VERSION = "1.0.1"
_MODULE = "github.com/cometbft/cometbft"
_PROGRAMS = {"cometbft": f"{_MODULE}/cmd/cometbft", "load": f"{_MODULE}/test/loadtime/cmd/load"}
_BUILD_SECONDS = 900


class CometBftMissing(Exception):
    """There is no CometBFT here, and why."""


class CometBft:
    """A network of validators with the kvstore application; ended on exit."""

    def __init__(self, folder: Path, *, validators: int, binaries: Path):
        self._folder = folder
        self._count = validators
        self._binaries = build(binaries)
        self._hosts = [f"127.0.0.{number + 2}" for number in range(validators)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._seen = 0

    def __enter__(self) -> Self:
        subprocess.run(
            [self._binaries / "cometbft", "testnet", "--v", str(self._count), "--o", self._folder,
             "--populate-persistent-peers", "--starting-ip-address", self._hosts[0]],
            check=True, capture_output=True,
        )  # fmt: skip
        p2p, self._rpc = free_ports(2, host=self._hosts[0])
        for number, host in enumerate(self._hosts):
            home = self._folder / f"node{number}"
            settings = home / "config/config.toml"
            settings.write_text(settings.read_text().replace(":26656", f":{p2p}"))
            with (home / "log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [self._binaries / "cometbft", "start", "--home", home, "--proxy_app=kvstore",
                         "--log_level=error", "--consensus.create_empty_blocks=false",
                         f"--p2p.laddr=tcp://{host}:{p2p}", f"--rpc.laddr=tcp://{host}:{self._rpc}"],
                        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    )
                )  # fmt: skip
        try:
            wait_for(lambda: self._heights() is not None, "CometBFT answers")
            wait_for(self._is_joined, "the validators of CometBFT are connected")
            self.run(rate=1, seconds=3)  # its tool sends nothing in the first second
        except BaseException:
            end_all(self._processes)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self._processes)

    def run(self, *, rate: int, seconds: int, size: int = 250) -> LoadRun:
        """Sends so many transactions a second to each validator, waits until all it took are in blocks, and measures.

        What comes when a validator's mempool is full is refused, and does not count.
        """
        pids = [process.pid for process in self._processes]
        before = cpu_seconds(pids)
        endpoints = ",".join(f"ws://{host}:{self._rpc}/v1/websocket" for host in self._hosts)
        subprocess.run(
            [self._binaries / "load", "-c", "1", "-T", str(seconds), "-r", str(rate), "-s", str(size),
             "--broadcast-tx-method", "sync", "--endpoints", endpoints],
            check=True, capture_output=True,
        )  # fmt: skip
        wait_for(lambda: self._height() > self._seen + 1, "CometBFT commits something")
        wait_for(self._is_drained, "CometBFT has committed what it took")
        cpu = cpu_seconds(pids) - before
        latencies: list[float] = []
        sent, done = [], []
        for block_time, transactions in self._blocks_since():
            times = [_sent_at(base64.b64decode(item)) for item in transactions]
            latencies += [block_time - at for at in times]
            if times:
                sent.append(min(times))
                done.append(block_time)
        return LoadRun(committed=len(latencies), seconds=max(done) - min(sent), cpu=cpu, latencies=tuple(latencies))

    def wrong(self) -> str | None:
        """Looks for transactions that are in the ledger twice, and for nodes with another result."""
        transactions = [item for _, found in self._blocks(2, self._height()) for item in found]
        if len(set(transactions)) != len(transactions):
            return "a transaction was committed twice"
        states = {
            (answer["last_block_height"], answer["last_block_app_hash"])
            for answer in (self._ask(number, "abci_info")["response"] for number in range(self._count))
        }
        return None if len(states) == 1 else f"the nodes of CometBFT differ: {sorted(states)}"

    def _heights(self) -> list[int] | None:
        try:
            return [int(self._ask(n, "status")["sync_info"]["latest_block_height"]) for n in range(self._count)]
        except OSError:
            return None

    def _height(self) -> int:
        return min(self._heights() or [0])

    def _is_joined(self) -> bool:
        peers = [int(self._ask(number, "net_info")["n_peers"]) for number in range(self._count)]
        return min(peers) == self._count - 1

    def _is_drained(self) -> bool:
        waiting = [int(self._ask(number, "num_unconfirmed_txs")["n_txs"]) for number in range(self._count)]
        if any(waiting):
            return False
        heights = self._heights() or []
        # The block after the last one, which has none but is made because the application's hash has changed.
        return len(set(heights)) == 1 and not self._block(heights[0])["data"]["txs"]

    def _blocks_since(self) -> Iterator[tuple[float, list[str]]]:
        """Yields what was committed since the last call."""
        start, end = max(self._seen, 1), self._height()
        self._seen = end
        return self._blocks(start + 1, end)

    def _blocks(self, start: int, end: int) -> Iterator[tuple[float, list[str]]]:
        """Yields when each block with transactions was decided, and these."""
        transactions: list[str] = []
        for height in range(start, end + 1):
            block = self._block(height)
            if transactions:
                yield _seconds(block["header"]["time"]), transactions
            transactions = block["data"]["txs"] or []

    def _block(self, height: int) -> dict[str, Any]:
        return dict(self._ask(0, f"block?height={height}")["block"])

    def _ask(self, number: int, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self._hosts[number]}:{self._rpc}/{path}", timeout=30) as answer:
            return dict(json.load(answer)["result"])


def build(target: Path) -> Path:
    """Builds the peer's programs once, and returns their folder; raises CometBftMissing that says why it cannot."""
    target = target.resolve() / f"cometbft-{VERSION}"
    if all((target / name).exists() for name in _PROGRAMS):
        return target
    if shutil.which("go") is None:
        raise CometBftMissing("Go is needed to build CometBFT, and is not installed")
    made = subprocess.run(
        ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", f"{target}/", *_PROGRAMS.values()],
        cwd=SOURCES,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if made.returncode != 0:
        raise CometBftMissing(f"CometBFT cannot be built: {made.stderr.strip().splitlines()[-1]}")
    return target


def _seconds(time: str) -> float:
    """Returns a time of the ledger, which has nanoseconds, in seconds since 1970."""
    return datetime.fromisoformat(f"{time.rstrip('Z')[:26]}Z").timestamp()


def _sent_at(transaction: bytes) -> float:
    """Returns when a transaction of the load tool was made, which it says in field 4 (a protobuf timestamp)."""
    payload = bytes.fromhex(transaction.partition(b"=")[2].decode())
    stamp = dict(_fields(payload))[4]
    parts = dict(_fields(stamp if isinstance(stamp, bytes) else b""))
    seconds, nanoseconds = parts.get(1, 0), parts.get(2, 0)
    assert isinstance(seconds, int)
    assert isinstance(nanoseconds, int)
    return seconds + nanoseconds / 1e9


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of a protobuf message that has only varints and bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        value, position = _varint(data, position)
        if key & 7 == 0:
            yield key >> 3, value
        else:
            yield key >> 3, data[position : position + value]
            position += value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position

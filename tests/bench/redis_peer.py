"""Redis as a peer: started on loopback from what is installed or from Debian's archives, unpacked below build/."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_ARCHIVES = (
    "redis-tools",
    "liblzf1",
    "libjemalloc2",
    "liblua5.1-0",
    "lua-cjson",
    "lua-bitop",
    "libatomic1",
    "libhiredis0.14",
)
_PIPELINE = 256
_SECONDS = 10.0


class RedisMissing(Exception):
    """There is no Redis here, and why."""


class Redis:
    """A server of its own, in memory only, on a free port of loopback; ended on exit."""

    def __init__(self, folder: Path, *, archives: Path):
        self._folder = folder
        self._binary, self._libraries = _find(archives)

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"],
            executable=self._binary,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LD_LIBRARY_PATH": self._libraries},
        )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
                break
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._end()
                    raise RedisMissing("Redis does not start") from None
                time.sleep(0.02)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=_SECONDS)

    def encode(self, entries: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, int]]:
        """Returns requests of one pipeline each, with the number of replies: a guard and an append for every entry."""
        requests = [(_command(b"FLUSHALL"), 1)]
        for start in range(0, len(entries), _PIPELINE):
            part = entries[start : start + _PIPELINE]
            commands = [
                _command(b"SET", key, b"1", b"NX") + _command(b"XADD", b"actions", b"*", b"a", value)
                for key, value in part
            ]
            requests.append((b"".join(commands), 2 * len(part)))
        return requests

    def send(self, requests: Sequence[tuple[bytes, int]]) -> None:
        """Sends one pipeline after the other and reads its replies."""
        for data, replies in requests:
            self._socket.sendall(data)
            received = b""
            # Simple replies and nulls have one line each, ids of entries have two.
            lines = replies if replies == 1 else replies + replies // 2
            while received.count(b"\r\n") < lines:
                received += self._socket.recv(1 << 20)


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _find(archives: Path) -> tuple[str, str]:
    """Returns the server's path and the folders of its libraries."""
    installed = shutil.which("redis-server")
    if installed:
        return installed, ""
    archives = archives.resolve()
    # The server itself: the archive's other names, redis-server among them, are links to it.
    binary = archives / "root/usr/bin/redis-check-rdb"
    if not binary.exists():
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise RedisMissing("redis-server is not installed, and this is no Debian to unpack it from")
        archives.mkdir(parents=True, exist_ok=True)
        for name in _ARCHIVES:
            subprocess.run(["apt-get", "download", name], cwd=archives, capture_output=True, check=False)
        for archive in archives.glob("*.deb"):
            subprocess.run(["dpkg", "-x", archive.name, "root"], cwd=archives, capture_output=True, check=True)
        if not binary.exists():
            raise RedisMissing("redis-server is not installed, and its archive cannot be had")
    return str(binary), ":".join(str(path) for path in archives.glob("root/usr/lib/*/"))

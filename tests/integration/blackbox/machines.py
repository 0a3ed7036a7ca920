"""Machines of a run: an address on a network of their own, a disk of limited size, a wall clock that can be set."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.node.cluster_of_nodes import NodeProcess

SOURCE = Path(__file__).with_name("clock.c")
NAMESPACES = Path("/run/netns")
# Addresses that are set apart for tests of networks (RFC 2544); the runner is the first.
RUNNER = "198.18.0.1"
P2P_PORT, HTTP_PORT = 4001, 8080
PAGE = 4096


def run(*command: str, text: str = "") -> None:
    """Runs a tool to its end; its own words when it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def build_clock(folder: Path) -> Path:
    """Compiles the library that gives a process a wall clock of its own."""
    library = folder / "clock.so"
    run("cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE))
    return library


def open_network() -> None:
    """Makes the bridge that all machines are on; only inside namespaces of our own."""
    NAMESPACES.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "none", str(NAMESPACES))
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "hub", "type", "bridge")
    run("ip", "addr", "add", f"{RUNNER}/24", "dev", "hub")
    run("ip", "link", "set", "hub", "up")


@dataclass(frozen=True, kw_only=True)
class Link:
    """What a machine hears: addresses it hears nothing from, packets lost of a hundred, bytes a second (0: all)."""

    deaf_to: tuple[str, ...] = ()
    loss: int = 0
    bytes_per_second: int = 0

    def rules(self) -> str:
        """The filter's rules for what comes in; the runner is heard unless it is named."""
        lines = [f"ip saddr {address} drop" for address in self.deaf_to]
        others = f"ip saddr != {{ {RUNNER}, 127.0.0.1 }}"
        if self.loss:
            lines.append(f"{others} numgen random mod 100 < {self.loss} drop")
        if self.bytes_per_second:
            lines.append(f"{others} limit rate over {self.bytes_per_second // 1000} kbytes/second drop")
        body = "\n".join(lines)
        return (
            f"table inet blackbox {{ chain heard {{ type filter hook input priority 0; policy accept;\n{body}\n}}\n}}"
        )


class Machine(NodeProcess):
    """A node on a machine of its own: ``address`` on the network, a disk of ``disk_bytes``, a clock."""

    def __init__(self, name: str, number: int, *, folder: Path, clock: Path, disk_bytes: int):
        self.address = f"198.18.0.{10 + number}"
        super().__init__(name, folder / name / "node.json", (P2P_PORT, HTTP_PORT), folder / f"{name}.log")
        self.disk = folder / name / "data"
        self._disk_bytes = disk_bytes
        self._library = clock
        self._clock = folder / name / "clock"
        self._link: Link | None = None
        self.set_clock(0)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.http_port}"

    def plug_in(self) -> None:
        """Gives the machine its place on the network and its disk."""
        port = f"port-{self.name}"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", port, "master", "hub", "up")
        self._inside("ip", "addr", "add", f"{self.address}/24", "dev", "eth0")
        self._inside("ip", "link", "set", "eth0", "up")
        self._inside("ip", "link", "set", "lo", "up")
        self.disk.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self._disk_bytes}", "none", str(self.disk))

    def command(self) -> Sequence[str]:
        # A session of its own, as a container has: the scheduler shares processors out by sessions.
        return ("setsid", "nsenter", f"--net={NAMESPACES / self.name}", *super().command())

    def environment(self) -> dict[str, str]:
        return super().environment() | {"LD_PRELOAD": str(self._library), "BLACKBOX_CLOCK": str(self._clock)}

    def _inside(self, *command: str, text: str = "") -> None:
        run("nsenter", f"--net={NAMESPACES / self.name}", *command, text=text)

    async def answers(self) -> bool:
        """True when the process has begun: it answers, whatever it says."""
        return (await self.get("/livez"))[0] != 0

    # The network

    def hear(self, link: Link) -> None:
        """Makes the link the only rule for what the machine hears from now on."""
        old = "" if self._link is None else "delete table inet blackbox\n"
        self._inside("nft", "-f", "-", text=old + link.rules() + "\n")
        self._link = link

    # The disk

    @property
    def ballast(self) -> Path:
        return self.disk / "ballast"

    def fill_disk(self) -> None:
        """Leaves no page free; again, for what the node has given back since."""
        with self.ballast.open("ab") as file:
            size = shutil.disk_usage(self.disk).free
            while size >= PAGE:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                except OSError:
                    size //= 2  # the node took some of it first

    def empty_disk(self) -> None:
        """Gives back what ``fill_disk`` took."""
        self.ballast.unlink(missing_ok=True)

    def used_bytes(self) -> int:
        return shutil.disk_usage(self.disk).used

    def memory_mb(self) -> int:
        """What the node has in memory, in MiB; 0 when it does not run."""
        if not self.runs:
            return 0
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 2**20

    # The clock

    def set_clock(self, seconds: int) -> None:
        """Sets the wall clock so many seconds ahead of the true time, for the node that runs as well."""
        self._clock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._clock, os.O_CREAT | os.O_RDWR)
        try:
            os.pwrite(descriptor, struct.pack("=q", seconds * 1_000_000_000), 0)
        finally:
            os.close(descriptor)


def addresses(machines: Iterable[Machine]) -> tuple[str, ...]:
    return tuple(machine.address for machine in machines)

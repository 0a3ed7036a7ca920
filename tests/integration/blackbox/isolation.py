"""A run in namespaces of its own: the kernel ends its processes, mounts and networks with it, however it ends.

Nothing here has a name outside, so runs do not meet each other, and a killed run leaves only its folder, which it had
locked; the next start removes folders whose lock is free.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

INSIDE = "AGENTWORLD_BLACKBOX"
TOOLS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setsid": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "cc": "gcc libc6-dev",
}
NAMESPACES = ("--fork", "--pid", "--kill-child", "--mount-proc", "--net", "--mount", "--propagation", "private")
_PR_SET_PDEATHSIG = 1


def is_inside() -> bool:
    return os.environ.get(INSIDE) == "1"


def prepare() -> str | None:
    """Installs what is missing where it may; the reason why a run is not possible here, None when it is."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = " ".join(missing).split()
        install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], install):
            subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
        missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        return f"missing system packages; as root, install the equivalent of: apt-get install {' '.join(missing)}"
    tried = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"namespaces of its own are refused here: {tried.stderr.strip()}"


def run_inside(module: str, arguments: list[str]) -> int:
    """Runs a module with these arguments in new namespaces and returns its exit status; it dies with this process."""
    command = [*_unshare(), sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, env=os.environ | {INSIDE: "1"}, preexec_fn=_die_with_parent)  # noqa: PLW1509 - no thread here
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()


def _unshare() -> list[str]:
    # Who is not root may be root of a user namespace, where the kernel allows it.
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, *NAMESPACES]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class RunFolder:
    """A folder for one run, locked while its process lives; removes those of runs that are over and were not kept."""

    LOCK = ".run"

    def __init__(self, parent: Path, name: str):
        parent.mkdir(parents=True, exist_ok=True)
        self.path = parent / name
        self._lock: int | None = None

    def __enter__(self) -> Path:
        remove_leftovers(self.path.parent)
        self.path.mkdir()
        self._lock = os.open(self.path / self.LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self.path

    def __exit__(self, *error: object) -> None:
        assert self._lock is not None
        os.close(self._lock)

    def keep(self) -> None:
        """Leaves the folder for people to look at."""
        (self.path / self.LOCK).unlink()


def remove_leftovers(parent: Path) -> list[Path]:
    """Removes the folders of runs that hold their mark and are not locked any more; returns them."""
    removed = []
    for mark in sorted(parent.glob(f"*/{RunFolder.LOCK}")):
        descriptor = os.open(mark, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
        shutil.rmtree(mark.parent)
        removed.append(mark.parent)
    return removed

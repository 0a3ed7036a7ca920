"""Builds every component once from Go modules and keeps the result by the hash of what it was built from."""

import hashlib
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .commands import ClusterError, run
from .progress import Step, say, step
from .settings import HERE
from .slots import locked

TOOLS = HERE / "tools"
VOLUMES = HERE / "volumes"
CNI = ("bridge", "host-local", "loopback", "portmap")
KUBE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
# no cgo and no debug information: less to compile, and nothing to link against at run time
FLAGS = ("-trimpath", "-tags=no_btrfs no_zfs no_devmapper no_aufs no_systemd", "-gcflags=all=-dwarf=false")


@dataclass(frozen=True)
class Binaries:
    """Where the components of one set of sources are."""

    root: Path

    @property
    def bin(self) -> Path:
        """Control plane, container runtime, kubectl, helm."""
        return self.root / "bin"

    @property
    def cni(self) -> Path:
        """Network plugins; apart, because one of them is called `bridge` like a program of iproute2."""
        return self.root / "cni"

    @property
    def images(self) -> Path:
        """Images that every node needs."""
        return self.root / "images"

    @property
    def path(self) -> str:
        """A PATH for components."""
        return f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    @property
    def built(self) -> bool:
        """Whether a build came to its end here."""
        return (self.root / "built").exists()


def located(cache: Path) -> Binaries:
    """Returns where the binaries of the present sources are, or will be."""
    sources = [*sorted(TOOLS.glob("go.*")), *sorted(VOLUMES.glob("go.*")), *sorted(TOOLS.glob("cmd/*/main.go"))]
    digest = hashlib.sha256("\0".join(FLAGS).encode())
    for source in sources:
        digest.update(f"\0{source.relative_to(HERE)}\0".encode() + source.read_bytes())
    return Binaries(cache / digest.hexdigest()[:16])


def build(cache: Path) -> Binaries:
    """Builds what is not yet built and returns where it is; ten minutes and more the first time, nothing later."""
    target = located(cache)
    if target.built:
        return target
    with locked(cache / "build.lock", waiting_for="another build of the same parts"):
        if not target.built:
            _build(target)
    return target


def _build(target: Binaries) -> None:
    if shutil.which("go") is None:
        raise ClusterError(f"Go is needed to build the cluster's parts: {_go_line()} or newer")
    say("building the parts of Kubernetes; the first time takes 10-15 minutes on two cores, later nothing")
    version = run(["go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"], cwd=TOOLS).strip()
    prefix = "k8s.io/component-base/version.git"
    minor = version.split(".")[1]
    linked = f"-ldflags=-s -w -X {prefix}Version={version} -X {prefix}Major=1 -X {prefix}Minor={minor}"
    target.bin.mkdir(parents=True, exist_ok=True)
    target.cni.mkdir(exist_ok=True)
    install = {"GOBIN": str(target.bin)}
    with step(f"Kubernetes {version}, etcd, CoreDNS") as running:
        _go(["build", *FLAGS, linked, "-o", f"{target.bin}/", "./cmd/..."], TOOLS, running, {})
    with step("containerd, network plugins, helm") as running:
        _go(["install", *FLAGS, linked, "tool"], TOOLS, running, install)
    with step("volume provisioner") as running:  # a module of its own: its old logrus path clashes with the others
        _go(["install", *FLAGS, linked, "tool"], VOLUMES, running, install)
    for name in CNI:
        (target.bin / name).replace(target.cni / name)
    for name in KUBE:
        link = target.bin / name
        link.unlink(missing_ok=True)
        link.symlink_to("kube")
    (target.root / "built").write_text(version + "\n")


def _go(arguments: list[str], folder: Path, running: Step, extra: dict[str, str]) -> None:
    """Runs the Go tool and shows the packages that it downloads or compiles, which are those not in Go's cache."""
    command = ["go", arguments[0], "-v", *arguments[1:]]
    environment = {**os.environ, "CGO_ENABLED": "0", **extra}
    lines: list[str] = []
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                lines.append(line.rstrip())
                running.update(f"{len(lines)} packages, now {lines[-1]}")
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode != 0:
        raise ClusterError("go " + arguments[0] + " failed:\n" + "\n".join(lines[-20:]))


def _go_line() -> str:
    found = [line for line in (TOOLS / "go.mod").read_text().splitlines() if line.startswith("go ")]
    return found[0]

"""The same commands on kind, for machines where a Docker daemon answers."""

import os
import shutil
import subprocess
from pathlib import Path

from . import images
from .commands import ClusterError, run
from .progress import say, step
from .settings import HERE, REPOSITORY, Folders

_CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")


class Kind:
    """A cluster of Docker containers; `docker`, `kind`, `kubectl` and `helm` are the user's."""

    kind = "kind"

    def __init__(self, folders: Folders) -> None:
        self.folders = folders

    def build(self) -> None:
        """Checks that the programs are there."""
        for name in ("docker", "kind", "kubectl", "helm"):
            self.program(name)

    def up(self, nodes: int) -> None:
        """Creates the cluster with that many nodes that take pods."""
        self.build()
        if self._exists():
            run(["kind", "export", "kubeconfig", *self._named(), f"--kubeconfig={self.folders.kubeconfig}"])
            say(f"cluster {self.folders.name} is already up")
            return
        self.folders.state.mkdir(parents=True, exist_ok=True)
        config = self.folders.state / "kind.yaml"
        config.write_text(configuration(nodes))
        with step(f"kind cluster {self.folders.name}"):
            wait = ["--wait=180s", f"--kubeconfig={self.folders.kubeconfig}"]
            run(["kind", "create", "cluster", *self._named(), f"--config={config}", *wait])
        say(f"export KUBECONFIG={self.folders.kubeconfig}")

    def down(self, *, purge: bool) -> None:
        """Deletes the cluster; kind keeps no state, so `purge` only forgets the folder too."""
        if self._exists():
            with step(f"deleting kind cluster {self.folders.name}"):
                run(["kind", "delete", "cluster", *self._named(), f"--kubeconfig={self.folders.kubeconfig}"])
        self.folders.kubeconfig.unlink(missing_ok=True)
        if purge and self.folders.state.exists():
            shutil.rmtree(self.folders.state)
        say(f"cluster {self.folders.name} is down")

    def image(self, targets: list[str], tag: str) -> list[str]:
        """Builds targets of our Dockerfile with Docker."""
        names = [images.ours(target, tag) for target in targets]
        for target, name in zip(targets, names, strict=True):
            with step(f"image {name}"):
                settings = images.pip_settings({k: v for k, v in os.environ.items() if k == "PIP_INDEX_URL"})
                run(["docker", "build", "--quiet", f"--target={target}", f"--tag={name}", *settings, str(REPOSITORY)])
        return names

    def load(self, wanted: list[str]) -> None:
        """Brings images, or archives of images, to every node."""
        for image in wanted:
            form = "image-archive" if image.endswith((".tar", ".oci")) else "docker-image"
            with step(f"loading {image}"):
                run(
                    [
                        "kind",
                        "load",
                        form,
                        image if form == "image-archive" else images.reference(image),
                        *self._named(),
                    ]
                )

    def status(self) -> bool:
        """Prints the nodes; True when the API server answers and every node is ready."""
        if not self._exists():
            print(f"cluster {self.folders.name} is down")
            return False
        print(f"cluster     {self.folders.name} (kind)")
        print(f"kubeconfig  {self.kubeconfig()}")
        access = ["kubectl", f"--kubeconfig={self.kubeconfig()}", "get", "nodes"]
        print(run([*access, "--output=wide"]).rstrip())
        ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}"
        return set(run([*access, f"--output={ready}"]).split()) == {"True"}

    def logs(self, component: str | None, *, lines: int, follow: bool) -> None:
        """Shows a component of the control plane by its pods' logs, kubelet and containerd by their node's journal."""
        if component is None:
            print("\n".join((*_CONTROL_PLANE, "coredns", "kubelet", "containerd")))
        elif component in ("kubelet", "containerd"):
            words = [
                "journalctl",
                "--no-pager",
                f"--unit={component}",
                f"--lines={lines}",
                *(["--follow"] if follow else []),
            ]
            for name in run(["kind", "get", "nodes", *self._named()]).split():
                subprocess.run(["docker", "exec", name, *words], check=False)
        else:
            label = f"component={component}"
            if component in ("kube-proxy", "coredns"):
                label = f"k8s-app={'kube-dns' if component == 'coredns' else component}"
            words = ["--namespace=kube-system", "logs", f"--selector={label}", f"--tail={lines}", "--prefix"]
            access = ["kubectl", f"--kubeconfig={self.kubeconfig()}", *words, *(["--follow"] if follow else [])]
            subprocess.run(access, check=False)

    def fault(self, deed: str, component: str) -> None:
        """Docker does that to the container of a node; the components inside are not ours."""
        says = "pause, unpause or kill the container of a node with docker"
        raise ClusterError(f"cannot {deed} {component}: {says}")

    def kubeconfig(self) -> Path:
        """The file with the administrator's credentials."""
        if not self.folders.kubeconfig.exists():
            raise ClusterError(f"there is no cluster {self.folders.name}; `up` makes one")
        return self.folders.kubeconfig

    def program(self, name: str) -> str:
        """The path of a program of the user's."""
        path = shutil.which(name)
        if path is None:
            raise ClusterError(f"a Docker daemon answers, so kind is used, but {name} is not on the PATH; install it")
        return path

    def _exists(self) -> bool:
        return self.folders.name in run(["kind", "get", "clusters"]).split()

    def _named(self) -> list[str]:
        return [f"--name={self.folders.name}"]


def configuration(nodes: int) -> str:
    """The kind configuration; with more than one node the control plane has a node of its own, which takes no pods."""
    roles = ["control-plane"] + (["worker"] * nodes if nodes > 1 else [])
    return (HERE / "templates" / "kind.yaml").read_text() + "".join(f"  - role: {role}\n" for role in roles)

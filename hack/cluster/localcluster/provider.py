"""What both kinds of cluster can do, so that the command line does not need to know which one it drives."""

from pathlib import Path
from typing import Protocol


class Provider(Protocol):
    """One cluster, by name."""

    kind: str

    def up(self, nodes: int) -> None:
        """Brings the cluster up with that many nodes that take pods, or says that it is."""

    def down(self, *, purge: bool) -> None:
        """Takes down what `up` started, or says that it is down; `purge` also forgets its state."""

    def build(self) -> None:
        """Makes or finds the programs that the cluster consists of."""

    def image(self, targets: list[str], tag: str) -> list[str]:
        """Builds targets of our Dockerfile and returns the images' names."""

    def load(self, images: list[str]) -> None:
        """Brings images to every node."""

    def status(self) -> bool:
        """Prints how the cluster is; True when everything runs."""

    def logs(self, component: str | None, *, lines: int, follow: bool) -> None:
        """Prints what a component wrote, or which components there are."""

    def fault(self, deed: str, component: str) -> None:
        """Kills, freezes or thaws a component, as a failing machine would; ClusterError when that cannot be done."""

    def kubeconfig(self) -> Path:
        """The file with the administrator's credentials; ClusterError when there is no cluster."""

    def program(self, name: str) -> str:
        """The path of kubectl or helm."""

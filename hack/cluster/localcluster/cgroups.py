"""The control groups of a cluster: one root for each node, or two kubelets would reap each other's pods."""

import os
from pathlib import Path

from .commands import ClusterError, wait_until
from .settings import Folders

ROOT = Path("/sys/fs/cgroup")


def path_of(folders: Folders, node: int) -> str:
    """The cgroup root of a node as the kubelet names it."""
    return f"/aw-{folders.name}/node{node}"


def create(folders: Folders, node: int) -> None:
    """Makes the node's root in every hierarchy and lets it use the controllers of its parent."""
    for hierarchy in _hierarchies():
        path = hierarchy
        for part in path_of(folders, node).strip("/").split("/"):
            _delegate(path)
            path = path / part
            path.mkdir(exist_ok=True)
            _fill_cpuset(path)


def remove(folders: Folders, node: int | None = None) -> None:
    """Removes the groups of a node, or of the whole cluster, once their processes have ended."""
    name = f"aw-{folders.name}" if node is None else path_of(folders, node).strip("/")
    tops = [hierarchy / name for hierarchy in _hierarchies()]

    def gone() -> bool:
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:  # still counted as busy for a moment after its last process ended
                    return False
        return not any(top.exists() for top in tops)

    wait_until(gone, what=f"the control groups {name} to become empty", seconds=20)


def present(folders: Folders) -> list[Path]:
    """The top groups of this cluster that exist."""
    return [path for hierarchy in _hierarchies() if (path := hierarchy / f"aw-{folders.name}").exists()]


def _hierarchies() -> list[Path]:
    """All of version 1, or the single one of version 2."""
    if (ROOT / "cgroup.procs").exists():
        return [ROOT]
    found = [path for path in sorted(ROOT.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists()]
    if not found:
        raise ClusterError(f"no control groups under {ROOT}")
    return found


def _fill_cpuset(path: Path) -> None:
    """Copies processors and memory nodes from the parent: a new group of version 1 has none and takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if path.parent.name != "unified" and (path / name).exists() and not (ROOT / "cgroup.procs").exists():
            (path / name).write_text((path.parent / name).read_text())


def _delegate(parent: Path) -> None:
    """Hands the controllers of a version 2 group down to its children."""
    control = parent / "cgroup.subtree_control"
    if control.exists():
        for controller in (parent / "cgroup.controllers").read_text().split():
            control.write_text(f"+{controller}")

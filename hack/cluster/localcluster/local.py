"""The cluster of processes: brings the parts up in the order that waits least, and takes them down again."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path

from . import addons, binaries, cgroups, control_plane, debian, images, node, pki, slots
from .api import Api
from .commands import ClusterError
from .node import Machine, Node
from .processes import Processes
from .progress import elapsed, say, step
from .settings import MAX_NODES, Addresses, Folders

_DEEDS = {"kill": signal.SIGKILL, "freeze": signal.SIGSTOP, "thaw": signal.SIGCONT}


class Local:
    """A cluster of processes and namespaces on this machine; root is needed."""

    kind = "local"

    def __init__(self, folders: Folders) -> None:
        self.folders = folders
        self.binaries = binaries.located(folders.cache)
        self.processes = Processes(pids=folders.pids, logs=folders.logs, path=self.binaries.path)

    def build(self) -> None:
        """Installs packages, builds the components and packs the images of every node; nothing when all is there."""
        debian.install()
        binaries.build(self.folders.cache)
        images.ensure_needed(self.binaries)

    def up(self, nodes: int) -> None:
        """Brings the cluster up with that many nodes; only what does not run yet is started."""
        self._check(nodes)
        with self._locked():
            self.build()
            wanted = sorted({*self._started_nodes(), *range(1, nodes + 1)})
            addresses = slots.claim(self.folders)
            machine = self._machine(addresses)
            if self._complete(wanted, machine):
                say(f"cluster {self.folders.name} is already up: {_count(len(wanted))}")
                return
            fresh = not self.processes.names()
            self.processes.stop_unrecorded()
            try:
                self._start(machine, [Node(machine, number) for number in wanted])
            except BaseException:
                if fresh:
                    say("stopping what was started; the logs stay, see `logs`")
                    self._stop(machine)
                raise

    def _start(self, machine: Machine, nodes: list[Node]) -> None:
        begun = time.monotonic()
        with step("certificates and control plane"):
            pki.create(self.folders, machine.addresses)
            control_plane.start_storage_and_server(self.folders, machine.addresses, self.processes)
            node.start_forwarder(machine)
        with step(f"{_count(len(nodes))}: namespaces, containerd, images"):
            node.together(nodes, Node.make)
        api = Api(self.folders, machine.addresses)
        with step("API server"):
            control_plane.start_controllers(self.folders, machine.addresses, self.processes, api)
        with step("kubelets, DNS, volumes"):
            addons.apply(machine)
            for each in nodes:
                each.join()
            addons.start(machine, nodes[0])
            for each in nodes:
                each.wait_ready(api)
            addons.wait_ready(machine, nodes[0])
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            control_plane.wait(self.processes, control_plane.CONTROLLERS, lambda: api.exists(account), seconds=60)
        say(f"cluster {self.folders.name} is up: {_count(len(nodes))} ready after {elapsed(begun)}")
        say(f"export KUBECONFIG={self.folders.kubeconfig}")

    def down(self, *, purge: bool) -> None:
        """Stops every process of the cluster and removes its devices and control groups; `purge` also its folder."""
        _need_root()
        addresses = slots.recorded(self.folders)
        if addresses is None and not self.folders.state.exists():
            say(f"cluster {self.folders.name} is down already")
            return
        with self._locked():
            begun = time.monotonic()
            before = "is down" if self.processes.names() else "is down already"
            if addresses is not None:  # also when nothing is recorded: what a killed run left is found by its name
                self._stop(self._machine(addresses))
            say(f"cluster {self.folders.name} {before}, {elapsed(begun)}")
            if purge:
                _remove_tree(self.folders.state)
                say(f"forgot the state of cluster {self.folders.name}")

    def _stop(self, machine: Machine) -> None:
        self.processes.stop([addons.VOLUMES], seconds=1)
        nodes = [Node(machine, number) for number in node.known(self.folders)]
        with step("stopping nodes"):
            node.together(nodes, Node.remove)
            node.remove_bridge(machine)
            cgroups.remove(self.folders)
        with step("stopping control plane"):
            control_plane.stop(self.processes)
            self.processes.stop_unrecorded()
        if rest := self.processes.names():
            raise ClusterError(f"still recorded after stopping everything: {', '.join(rest)}")

    def image(self, targets: list[str], tag: str) -> list[str]:
        """Builds targets of our Dockerfile with buildah."""
        _need_root()
        names = [images.ours(target, tag) for target in targets]
        debian.install()
        images.ensure_base()
        for target in targets:
            images.build(target, tag)
        return names

    def load(self, wanted: list[str]) -> None:
        """Imports images into every running node, and remembers them for nodes that are added later."""
        _need_root()
        archives = [images.archive(image, self.folders.images) for image in wanted]
        with self._locked():
            numbers = self._running_nodes()
            addresses = slots.recorded(self.folders)
            if addresses is None or not numbers:
                raise ClusterError(f"cluster {self.folders.name} is not up")
            self.folders.loaded.mkdir(exist_ok=True)
            for path in archives:
                link = self.folders.loaded / str(path).replace("/", "%")
                if not link.is_symlink():
                    link.symlink_to(path)
            machine = self._machine(addresses)
            with step(f"loading {_count(len(archives), 'image')} into {_count(len(numbers))}"):
                node.together([Node(machine, number) for number in numbers], lambda each: each.load(archives))

    def fault(self, deed: str, component: str) -> None:
        """Kills, freezes or thaws a component; of a node only the plug can be pulled. `up` starts what is dead."""
        _need_root()
        if deed != "kill" and component.removeprefix("node").isdigit():
            raise ClusterError(
                f"a node can only be killed; to {deed} a part of it name that, such as {component}-kubelet"
            )
        self.processes.signal(component, _DEEDS[deed])
        say(f"cluster {self.folders.name}: {deed} {component}")

    def status(self) -> bool:
        """Prints addresses, processes and nodes; True when everything that was started runs and every node is ready."""
        addresses, names = slots.recorded(self.folders), self.processes.names()
        if addresses is None or not names:
            print(f"cluster {self.folders.name} is down")
            return False
        print(f"cluster     {self.folders.name} (local, slot {addresses.slot})")
        print(f"server      {addresses.server}")
        print(f"kubeconfig  {self.folders.kubeconfig}")
        networks = f"nodes {addresses.node_network}, pods {addresses.pod_network}, services {addresses.service_network}"
        print(f"networks    {networks}")
        running = [name for name in names if self.processes.alive(name)]
        for name in names:
            record = self.processes.recorded(name)
            print(f"  {'runs' if name in running else 'DEAD':<6}{name:<26}{record.pid if record else ''}")
        if control_plane.SERVER not in running:
            return False
        print(self._kubectl("get", "nodes", "--output=wide").rstrip())
        api = Api(self.folders, addresses)
        return running == names and all(api.node_ready(f"node{number}") for number in self._started_nodes())

    def logs(self, component: str | None, *, lines: int, follow: bool) -> None:
        """Shows the log of a component, of all nodes when several have it; without a component lists them."""
        found = {path.name.removesuffix(".log"): path for path in sorted(self.folders.logs.glob("*.log"))}
        if component is None:
            for name, path in found.items():
                print(f"{name:<34}{path.stat().st_size:>10} bytes  {path}")
            return
        chosen = [path for name, path in found.items() if name == component or name.partition("-")[2] == component]
        if not chosen:
            raise ClusterError(f"no component {component!r}; there are: {', '.join(found) or 'none'}")
        words = ["tail", f"--lines={lines}", *(["--follow=name"] if follow else []), *map(str, chosen)]
        subprocess.run(words, check=False)

    def kubeconfig(self) -> Path:
        """The file with the administrator's credentials."""
        if not self.folders.kubeconfig.exists():
            raise ClusterError(f"there is no cluster {self.folders.name}; `up` makes one")
        return self.folders.kubeconfig

    def program(self, name: str) -> str:
        """The path of kubectl or helm, as built here."""
        if not self.binaries.built:
            raise ClusterError("nothing is built yet; see `build`")
        return str(self.binaries.bin / name)

    def _machine(self, addresses: Addresses) -> Machine:
        return Machine(self.folders, addresses, self.binaries, self.processes)

    def _locked(self) -> AbstractContextManager[None]:
        self.folders.state.mkdir(parents=True, exist_ok=True)
        return slots.locked(self.folders.state / ".lock", waiting_for=f"another run for cluster {self.folders.name}")

    def _started_nodes(self) -> list[int]:
        """The nodes that belong to the cluster since it came up, also those that have died."""
        return [number for number in node.known(self.folders) if self.processes.recorded(f"node{number}")]

    def _running_nodes(self) -> list[int]:
        return [number for number in self._started_nodes() if self.processes.alive(f"node{number}")]

    def _complete(self, wanted: list[int], machine: Machine) -> bool:
        others = (*control_plane.COMPONENTS, node.FORWARDER, addons.VOLUMES, "node1-coredns")
        return all(self.processes.alive(name) for name in others) and all(Node(machine, n).alive() for n in wanted)

    def _kubectl(self, *words: str) -> str:
        return addons.kubectl(self.binaries, self.folders, *words)

    def _check(self, nodes: int) -> None:
        _need_root()
        if not 1 <= nodes <= MAX_NODES:
            raise ClusterError(f"--nodes takes 1 to {MAX_NODES}")
        for hidden in ("/run", "/var"):  # a node has its own there
            if self.folders.cache.resolve().is_relative_to(hidden):
                raise ClusterError(f"{self.folders.cache} is under {hidden}; set XDG_CACHE_HOME to a folder elsewhere")


def _count(number: int, what: str = "node") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError(
            "a local cluster needs root (namespaces, bridge, control groups); run it with sudo, or use Docker and kind"
        )


def _remove_tree(folder: Path) -> None:
    """Removes a folder; ClusterError when something is still mounted in it, for then it is not only ours."""
    inside = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if mounted := [path for path in inside if Path(path).is_relative_to(folder)]:
        raise ClusterError(f"not removing {folder}: still mounted: {', '.join(mounted)}")
    shutil.rmtree(folder)

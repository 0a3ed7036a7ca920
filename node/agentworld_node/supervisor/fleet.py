"""The node processes of a world: their configurations, ports and processes follow what is wanted, pass by pass."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from agentworld_core.errors import InvalidField
from agentworld_core.topology.node_config import LeaseConfig, NodeConfig
from agentworld_core.topology.plan import NodePlan, Topology, node_settings
from agentworld_node.supervisor.home import WorldHome
from agentworld_node.supervisor.ports import LOOPBACK, free_port, is_free
from agentworld_node.supervisor.processes import NodeProcess, end_leftover, node_command


class Fleet:
    """Runs the nodes of one world. ``entry_port`` is the port of the first gateway; 0 lets it be any free port."""

    def __init__(self, home: WorldHome, *, entry_port: int, command: Callable[[Path], Sequence[str]] = node_command):
        self._home = home
        self._entry_port = entry_port
        self._command = command
        self._configs: dict[str, NodeConfig] = {config.node_id: config for config in home.node_configs()}
        self._processes: dict[str, NodeProcess] = {}
        self._started_with: dict[str, NodeConfig] = {}
        self._entry = ""

    @property
    def configs(self) -> tuple[NodeConfig, ...]:
        """The configurations of all nodes that have a folder."""
        return tuple(self._configs.values())

    @property
    def validators(self) -> tuple[str, ...]:
        """The ids of the validators that have a folder, running or not."""
        return tuple(config.node_id for config in self.configs if "validator" in config.roles)

    @property
    def gateway_url(self) -> str:
        """Where clients reach the world."""
        config = self._configs.get(self._entry)
        return "" if config is None else f"http://{LOOPBACK}:{config.http_port}"

    def process(self, node_id: str) -> NodeProcess | None:
        """Returns the process of a node, None when it is not to run."""
        return self._processes.get(node_id)

    def log_file(self, node_id: str) -> Path:
        """Returns where the node's output goes."""
        return self._home.node_folder(node_id) / "log"

    async def end_leftovers(self) -> list[str]:
        """Ends nodes that a killed supervisor left behind, and returns their ids."""
        folders = {config.node_id: self._home.node_folder(config.node_id) for config in self.configs}
        ended = await asyncio.gather(*(end_leftover(folder) for folder in folders.values()))
        return [node_id for node_id, was_running in zip(folders, ended, strict=True) if was_running]

    def check_entry_port(self) -> None:
        """Raises InvalidField when another program has the port that clients are to use."""
        if self._entry_port and not is_free(self._entry_port):
            raise InvalidField(
                "is taken by another program",
                field="--port",
                value=self._entry_port,
                remedy="stop that program, or choose another port; 0 takes any free one",
            )

    def configure(self, topology: Topology, nodes: Iterable[NodePlan]) -> None:
        """Writes the configurations of these nodes of the plan, and where all nodes listen."""
        entry = next(iter(topology.gateways), None) or topology.nodes[0]
        self._entry = entry.node_id
        for node in nodes:
            self._configs[node.node_id] = self._settled(self._config_of(topology, node))
        self._save()

    async def run(self, wanted: Iterable[NodePlan], *, may_restart: bool) -> bool:
        """Starts what is wanted and stops everything else; a changed node is started anew, one a call, if allowed.

        Returns True while there was something to do.
        """
        names = {node.node_id for node in wanted}
        surplus = [node_id for node_id in self._processes if node_id not in names]
        missing = [node_id for node_id in sorted(names) if node_id not in self._processes]
        await self._stop(surplus)
        for node_id in missing:
            self._start(node_id)
        stale = [node_id for node_id in sorted(names) if self._configs[node_id] != self._started_with[node_id]]
        if stale and may_restart:
            await self._stop(stale[:1])
            self._start(stale[0])
        return bool(surplus or missing or stale)

    async def forget(self, node_id: str, *, data: bool) -> None:
        """Takes a node that has left out of the world; its data goes too where that is asked for."""
        await self._stop([node_id] if node_id in self._processes else [])
        self._configs.pop(node_id, None)
        self._home.remove_node(node_id, data=data)
        self._save()

    async def stop(self) -> None:
        """Stops every node."""
        await self._stop(list(self._processes))

    def _config_of(self, topology: Topology, node: NodePlan) -> NodeConfig:
        folder = self._home.node_folder(node.node_id)
        settings = node_settings(topology, node)
        known = self._configs.get(node.node_id)
        lease = dataclasses.asdict(settings.lease) | {"kind": "file", "path": str(self._home.lease_file)}
        return dataclasses.replace(
            settings,
            data_folder=str(folder / "data"),
            key_folder=str(folder / "keys") if node.kind == "validator" else "",
            identity_file=str(folder / "identity.pem"),
            genesis_file=str(self._home.genesis_file),
            peers_file=str(self._home.peers_file),
            p2p_host=LOOPBACK,
            http_host=LOOPBACK,
            p2p_port=known.p2p_port if known else 0,
            http_port=known.http_port if known else 0,
            lease=LeaseConfig(**lease),
        )

    def _settled(self, config: NodeConfig) -> NodeConfig:
        """Returns the configuration with ports; those of a node that runs stay, others must be free now."""
        process = self._processes.get(config.node_id)
        if process is not None and process.pid is not None:
            return config
        http = config.http_port
        if config.node_id == self._entry and self._entry_port:
            http = self._entry_port
        elif not http or not is_free(http):
            http = free_port()
        p2p = config.p2p_port
        if not p2p or not is_free(p2p):
            p2p = free_port()
        return dataclasses.replace(config, http_port=http, p2p_port=p2p)

    def _prepare(self, node_id: str) -> None:
        """Runs before each start of a node: a port that was taken meanwhile is exchanged for a free one."""
        config = self._settled(self._configs[node_id])
        if config != self._configs[node_id]:
            self._configs[node_id] = config
            self._save()
        self._started_with[node_id] = config

    def _start(self, node_id: str) -> None:
        folder = self._home.node_folder(node_id)
        process = NodeProcess(
            node_id,
            folder,
            command=self._command(folder / "config.json"),
            prepare=lambda: self._prepare(node_id),
        )
        self._started_with[node_id] = self._configs[node_id]
        self._processes[node_id] = process
        process.start()

    async def _stop(self, node_ids: Sequence[str]) -> None:
        await asyncio.gather(*(self._processes[node_id].stop() for node_id in node_ids))
        for node_id in node_ids:
            del self._processes[node_id]

    def _save(self) -> None:
        for config in self.configs:
            self._home.save_node_config(config)
        self._home.save_peers(self.configs)

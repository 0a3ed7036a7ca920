"""Finds the worlds that run on this machine: their folders, and the one behind a gateway."""

from __future__ import annotations

import os
from pathlib import Path

from agentworld_core.errors import AgentWorldError, InvalidField, NotAvailable, NotFound
from agentworld_core.topology.resources import World
from agentworld_node.supervisor.control import ControlClient
from agentworld_node.supervisor.manifests import Reading
from agentworld_node.supervisor.record import find_supervisor
from agentworld_node.supervisor.state import WorldState

DATA_VARIABLE = "AGENTWORLD_DATA"


def default_base() -> Path:
    """Returns the folder that holds the worlds of this user."""
    share = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(share) / "agentworld"


def default_folder(reading: Reading) -> Path:
    """Returns the folder of the one World that manifests are about; InvalidField when there are several."""
    names = dict.fromkeys(
        item.resource.name if isinstance(item.resource, World) else item.resource.spec.world for item in reading.given
    )
    if len(names) != 1:
        raise InvalidField("name the folder of the world", field="--data", remedy="or give manifests of one World")
    return default_base() / next(iter(names))


def running_folders() -> list[Path]:
    """Returns the folders of worlds that run on this machine: of this user, and that of AGENTWORLD_DATA."""
    given = os.environ.get(DATA_VARIABLE)
    candidates = [*([Path(given)] if given else []), *sorted(default_base().glob("*"))]
    return [folder for folder in candidates if find_supervisor(folder) is not None]


def only_running() -> Path:
    """Returns the folder of the one world that runs here; NotAvailable when there is none, or more than one."""
    folders = running_folders()
    if len(folders) == 1:
        return folders[0]
    running = ", ".join(folder.name for folder in folders)
    remedy = f"name one of {running}, or give --data" if folders else "name its folder with --data"
    raise NotAvailable("several worlds run here" if folders else "no world runs here", field="WORLD", remedy=remedy)


async def node_url(node_id: str) -> str:
    """Returns the address of a node of a world that runs on this machine; NotFound names the nodes that do."""
    known: list[str] = []
    for folder in running_folders():
        record = find_supervisor(folder)
        if record is None:
            continue
        for node in (await ControlClient(record).world()).nodes:
            if node.node_id == node_id and node.url:
                return node.url
            known.append(node.node_id)
    remedy = f"use one of {', '.join(known)}" if known else "name the address with --gateway"
    raise NotFound("no such node runs on this machine", field="--node", value=node_id, remedy=remedy)


def folder_behind(gateway: str) -> Path | None:
    """Returns the folder of the world whose supervisor on this machine serves this gateway, None when there is none."""
    for folder in running_folders():
        record = find_supervisor(folder)
        if record is not None and record.gateway == gateway.rstrip("/"):
            return folder
    return None


async def world_behind(gateway: str) -> WorldState | None:
    """Returns the state of the world whose supervisor on this machine serves this gateway, None when there is none."""
    folder = folder_behind(gateway)
    record = None if folder is None else find_supervisor(folder)
    if record is None:
        return None
    try:
        return await ControlClient(record).world()
    except AgentWorldError:
        # It is about to stop, or still starting: what the node itself says is shown all the same.
        return None

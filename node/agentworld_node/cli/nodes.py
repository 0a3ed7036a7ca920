"""``agentworld node``: run one node until it is told to stop."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer
import yaml

from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_core.topology.node_config import NodeConfig
from agentworld_core.world.modules.shadow import MAX_ACTIVE_MODULES
from agentworld_node.cli.app import FAILED, INTERRUPTED, app
from agentworld_node.cli.output import Output, print_error


@app.command()
def node(
    config: Annotated[Path, typer.Option("--config", "-c", help="The node's configuration, a JSON or YAML file.")],
    roles: Annotated[
        str | None, typer.Option("--roles", help="Roles instead of those in the file, such as validator,storage.")
    ] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Run one node of a world: vote, order, store, serve, as its roles say.

    SIGTERM or Ctrl-C stops it cleanly: it hands the writer lease over and closes its log. Exit code 1 when it cannot
    start or go on; the last line says why, and what to do.
    """
    try:
        asyncio.run(_run_node(config, roles, log_level))
    except AgentWorldError as error:
        print_error(error, Output.table)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


async def _run_node(path: Path, roles: str | None, log_level: str) -> None:
    _configure_logging(log_level)
    settings = read_config(path)
    if roles is not None:
        plain = dataclasses.replace(settings, roles=tuple(role.strip() for role in roles.split(","))).to_dict()
        settings = NodeConfig.from_dict(plain)
    # Late, because it brings the network in, which takes its time.
    from agentworld_node.node import Node
    from agentworld_node.sandbox import SandboxSettings, WasmSandbox

    # As many as may be active, so that none is loaded again and again.
    kept = SandboxSettings(cached_modules=MAX_ACTIVE_MODULES)
    running = Node(settings, sandbox=WasmSandbox(Path(settings.data_folder) / "native-modules", kept))
    _collect_rarely()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.stop)
    await running.run(
        ready=lambda: logging.getLogger("agentworld").info(
            "node %s of world %s at height %d, http port %d, peer id %s",
            settings.node_id,
            settings.world_id,
            running.ledger.height,
            running.http_port,
            running.network.peer_id,
        )
    )


def _collect_rarely() -> None:
    """Makes looking for cycles of garbage rare: a block's events and receipts are many objects, and none is a cycle."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def read_config(path: Path) -> NodeConfig:
    """Returns the configuration of a JSON or YAML file; InvalidField says what is wrong with it."""
    try:
        # JSON is YAML, and its own parser says better what is wrong with it.
        text = path.read_text()
        data = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField(f"cannot be read: {error}", field="--config", value=path) from error
    except (ValueError, yaml.YAMLError) as error:
        says = " ".join(str(error).split())
        raise InvalidField(f"is not what its name says: {says}", field="--config", value=path) from error
    return NodeConfig.from_dict(data)


def _configure_logging(level: str) -> None:
    names = ("debug", "info", "warning", "error")
    if level.lower() not in names:
        raise InvalidField("is not a level", field="--log-level", value=level, remedy=f"use {', '.join(names)}")
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", level=level.upper())
    # The library reports every lost connection as an error with a traceback; the network adapter says what matters.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)

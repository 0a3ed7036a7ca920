"""Opens what an auditor reads from: a node by its address, a data folder or an archive on this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agentworld_client.archive import ArchiveSource
from agentworld_client.gateway import GatewayClient
from agentworld_client.source import WorldSource
from agentworld_core.errors import NotFound
from agentworld_core.world.modules.sandbox import Sandbox
from agentworld_node.cli.output import Output, errors
from agentworld_node.offline import FolderSource

SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[SOURCE]", help="An address, a data folder or an archive; default: the node of --gateway."),
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", "-s", help="A data folder or an archive to read instead of the node of --gateway."),
]
Advance = Callable[[int, int], None]
"""Called with the height that is done and the height that is wanted."""


@asynccontextmanager
async def open_source(place: str) -> AsyncIterator[WorldSource]:
    """Yields the source at an address or path; raises NotFound when there is nothing of the kind."""
    if place.startswith(("http://", "https://")):
        async with GatewayClient(place) as client:
            yield client
        return
    source = _local(Path(place))
    try:
        yield source
    finally:
        if isinstance(source, ArchiveSource):
            source.close()


def new_sandbox() -> Sandbox:
    """Returns what runs the modules of a world that is executed again on this machine."""
    # Late, because most commands run no module.
    from agentworld_node.sandbox import WasmSandbox

    return WasmSandbox()


def _local(path: Path) -> WorldSource:
    if path.is_file():
        return ArchiveSource(path)
    if not path.is_dir():
        remedy = "give a node's address, a data folder or an archive"
        raise NotFound("there is no such folder or file", field="source", value=path, remedy=remedy)
    source = FolderSource(path)
    if source.torn is not None:
        errors.print(f"[yellow]note[/] the log ends in the middle of a record, which is left out: {source.torn}")
    return source


@contextmanager
def progress_bar(what: str, output: Output) -> Iterator[Advance]:
    """Shows on a terminal how far a walk through the heights has come; elsewhere it shows nothing."""
    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=errors,
        transient=True, disable=output is Output.json or not errors.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, goal: bar.update(task, completed=done, total=goal)

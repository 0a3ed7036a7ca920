"""``agentworld up``, ``apply`` and ``down``: run a world on this machine from the manifests that Kubernetes takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.handlers
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape

from agentworld_core.errors import AgentWorldError, InvalidField, NotAvailable, TimedOut
from agentworld_node.cli.app import DEFAULT_GATEWAY, INTERRUPTED, OutputOption, app, exit_code, run
from agentworld_node.cli.local import DATA_VARIABLE, default_base, default_folder, only_running
from agentworld_node.cli.output import Output, console, errors, print_error, print_json, print_pairs
from agentworld_node.cli.world_view import JsonView, LiveView, PlainView
from agentworld_node.supervisor.control import ControlClient
from agentworld_node.supervisor.declared import Outcome
from agentworld_node.supervisor.home import WorldHome
from agentworld_node.supervisor.manifests import Reading, RefusedManifests, read_manifests
from agentworld_node.supervisor.processes import last_line
from agentworld_node.supervisor.record import find_supervisor, is_running, running_supervisor
from agentworld_node.supervisor.state import WorldState
from agentworld_node.supervisor.supervisor import Applied, Supervisor

STOP_SECONDS = 60.0
DETACH_SECONDS = 90.0
SETTLE_SECONDS = 180.0
POLL_SECONDS = 0.2
LOG_BYTES = 8 * 1024 * 1024
OUT = "supervisor.out"

_T = TypeVar("_T")

Files = Annotated[
    list[Path],
    typer.Option("--filename", "-f", help="A manifest or a folder of manifests (YAML or JSON); may be repeated."),
]
OptionalFiles = Annotated[
    list[Path] | None,
    typer.Option("--filename", "-f", help="A manifest or a folder of manifests; may be repeated."),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        "-d",
        envvar=DATA_VARIABLE,
        help="The folder of the world; default: ~/.local/share/agentworld/WORLD.",
    ),
]


@app.command()
def up(
    filename: OptionalFiles = None,
    data: Data = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", "-p", min=0, max=65535,
            help="Port of the gateway; 0: any free one. Default: the World's service port, 8080.",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; `agentworld down` ends it.")] = False,
    output: OutputOption = Output.table,
) -> None:  # fmt: skip
    """Run a world on this machine: one supervisor, one process for each validator and gateway, on loopback only.

    It ends with Ctrl-C or `agentworld down`, and goes on where it was when it is started again with the same folder.
    """
    with _explained(output):
        reading = read_manifests(filename) if filename else Reading((), ())
        folder = data or default_folder(reading)
        if not filename and not (folder / "world.json").exists():
            raise InvalidField(
                "there is no world here yet", field="--data", value=folder, remedy="give its -f manifests"
            )
        if detach:
            process = _start_detached(folder, filename or [], port)
            _print_running(asyncio.run(_await_running(folder, process)), output)
        else:
            asyncio.run(_supervise(folder, reading, port, output))


@app.command()
def apply(
    filename: Files,
    data: Data = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the world is as the manifests say.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would happen, change nothing.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Change a world that runs on this machine: each object is created, configured or unchanged.

    What may not be edited is refused with a sentence, and then nothing at all is applied.
    """

    async def command() -> tuple[list[Outcome], list[str]]:
        reading = read_manifests(filename)
        folder = data or default_folder(reading)
        client = ControlClient(running_supervisor(folder))
        outcomes, notices = await client.apply(reading.given, dry_run=dry_run)
        if wait and not dry_run:
            await _await_settled(client)
        return outcomes, [*reading.notices, *notices]

    with _explained(output):
        outcomes, notices = asyncio.run(command())
    if output is Output.json:
        print_json({"outcomes": [outcome.as_dict() for outcome in outcomes], "notices": notices, "dry_run": dry_run})
        return
    _print_notices(notices)
    _print_outcomes(outcomes, dry_run=dry_run)


@app.command()
def down(
    world: Annotated[str | None, typer.Argument(help="The World's name; not needed when one runs here.")] = None,
    data: Data = None,
    output: OutputOption = Output.table,
) -> None:
    """Stop a world that runs on this machine; its data stays, and `agentworld up` goes on with it."""

    async def command() -> Path:
        folder = data or (default_base() / world if world else only_running())
        await ControlClient(running_supervisor(folder)).stop()

        async def ended() -> bool | None:
            return None if is_running(folder) else True

        await _wait_for(ended, STOP_SECONDS, "the supervisor has not ended yet")
        return folder

    folder = run(command, output=output)
    if output is Output.json:
        print_json({"status": "stopped", "data": str(folder)})
    else:
        console.print(f"stopped; start it again with [bold]agentworld up --data {folder}[/]")


async def _supervise(folder: Path, reading: Reading, port: int | None, output: Output) -> None:
    WorldHome(folder).prepare()
    _log_to(folder / "supervisor.log")
    view = JsonView() if output is Output.json else LiveView() if console.is_terminal else PlainView(_plain)
    supervisor = Supervisor(folder, port=port, on_state=view.show)

    def ready(applied: Applied) -> None:
        if output is Output.json or supervisor.state is None:
            return
        _print_notices([*reading.notices, *applied.notices])
        _print_outcomes(applied.outcomes)
        _print_way_in(supervisor.state)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    with view:
        await supervisor.run(reading.given, config_maps=reading.config_maps, ready=ready)
    if output is not Output.json:
        console.print("everything has stopped; the same command goes on where it was")


def _start_detached(folder: Path, files: Sequence[Path], port: int | None) -> subprocess.Popen[bytes]:
    WorldHome(folder).prepare()
    if is_running(folder):
        raise InvalidField(
            "a supervisor runs the world of this folder already",
            field="--data",
            value=folder,
            remedy="change the world with `agentworld apply -f`, or stop it with `agentworld down`",
        )
    command = [sys.executable, "-m", "agentworld_node", "up", "--data", str(folder.absolute())]
    command += [part for path in files for part in ("--filename", str(path.absolute()))]
    command += [] if port is None else ["--port", str(port)]
    with (folder / OUT).open("wb") as out:
        return subprocess.Popen(  # noqa: S603 - our own command, no shell
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


async def _await_running(folder: Path, process: subprocess.Popen[bytes]) -> WorldState:
    """Returns the state of a world that was started in the background, once it has a quorum and its gateway answers."""

    async def state() -> WorldState | None:
        if process.poll() is not None:
            said = last_line(folder / OUT) or "it said nothing"
            raise NotAvailable(f"the supervisor ended: {said}", remedy=f"see {folder / OUT}")
        record = find_supervisor(folder)
        if record is None:
            return None
        found = await ControlClient(record).world()
        serving = all(node.phase == "Serving" for node in found.nodes if node.kind == "gateway")
        return found if found.phase not in ("Starting", "NoQuorum") and serving else None

    return await _wait_for(state, DETACH_SECONDS, f"the world does not run yet; see {folder / OUT}")


async def _await_settled(client: ControlClient) -> None:
    async def settled() -> WorldState | None:
        found = await client.world()
        return found if found.settled else None

    # The state of before the change may still be shown for one pass.
    await asyncio.sleep(POLL_SECONDS)
    try:
        await _wait_for(settled, SETTLE_SECONDS, "the world is not yet as the manifests say")
    except TimedOut as error:
        found = await client.world()
        waiting = "; ".join([*found.problems, *found.notes]) or "see `agentworld status`"
        raise TimedOut(error.message, remedy=waiting) from error


async def _wait_for(condition: Callable[[], Coroutine[Any, Any, _T | None]], seconds: float, message: str) -> _T:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = await condition()
        if found is not None:
            return found
        if loop.time() > deadline:
            raise TimedOut(message)
        await asyncio.sleep(POLL_SECONDS)


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _plain(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _print_outcomes(outcomes: Sequence[Outcome], *, dry_run: bool = False) -> None:
    for outcome in outcomes:
        _plain(f"{outcome.kind.lower()}/{outcome.name} {outcome.change}" + (" (dry run)" if dry_run else ""))


def _print_notices(notices: Sequence[str]) -> None:
    for notice in notices:
        errors.print(f"[yellow]note[/] {escape(notice)}")


def _print_running(state: WorldState, output: Output) -> None:
    if output is Output.json:
        print_json(state.as_dict())
    else:
        _print_way_in(state)


def _print_way_in(state: WorldState) -> None:
    export = "" if state.gateway == DEFAULT_GATEWAY else f"  (export AGENTWORLD_GATEWAY={state.gateway})"
    print_pairs(
        f"World {state.world}",
        [
            ("gateway", state.gateway + export),
            ("genesis", f"{state.genesis_hash}  (pin it: agentworld verify --replay --genesis-hash …)"),
            ("data", state.data),
            ("logs", f"{state.data}/nodes/*/log, {state.data}/supervisor.log"),
        ],
    )


@contextlib.contextmanager
def _explained(output: Output) -> Iterator[None]:
    """Turns errors of ours into a sentence, or one a complaint, and an exit code."""
    try:
        yield
    except RefusedManifests as error:
        if output is Output.json:
            print_error(error, output)
        else:
            errors.print(f"[bold red]error[/] [dim]({error.code})[/] {error.message}:")
            for complaint in error.complaints:
                errors.print(f"  {escape(str(complaint))}")
        raise typer.Exit(exit_code(error)) from None
    except AgentWorldError as error:
        print_error(error, output)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None

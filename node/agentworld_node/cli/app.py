"""The root of the command line: global behaviour, exit codes, and which module holds which command.

Exit codes: 0 done, 1 refused or failed (the message says why), 2 wrong usage, 3 no answer or too late (the outcome may
be unknown), 4 verification failed, 130 interrupted.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Coroutine
from importlib import metadata
from typing import Annotated, Any, TypeVar

import typer

from agentworld_client.errors import GatewayError, GatewayUnreachable, VerificationFailed
from agentworld_core.errors import AgentWorldError, NotAvailable, TimedOut
from agentworld_node.cli.output import Output, print_error, print_json

FAILED, USAGE, NO_ANSWER, NOT_VERIFIED, INTERRUPTED = 1, 2, 3, 4, 130

_EPILOG = (
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no answer or too late, 4 verification failed,"
    " 130 interrupted. AGENTWORLD_GATEWAY sets the default of --gateway, AGENTWORLD_DEBUG=1 shows tracebacks."
)

app = typer.Typer(
    name="agentworld",
    help="Deterministic, replayable worlds for agents: run them, act in them, verify them.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Gateway = Annotated[
    str, typer.Option("--gateway", "-g", envvar="AGENTWORLD_GATEWAY", help="Address of a node's HTTP gateway.")
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="table for people, json for programs.")]
DEFAULT_GATEWAY = "http://127.0.0.1:8080"

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a client's command goes and how it prints: the options that all of them share.

    ``source`` is what an auditor's command reads from: an address, a folder or a file; the gateway unless it is given.
    """

    gateway: str
    output: Output
    source: str = ""


def client_command(
    group: typer.Typer, name: str | None = None, *, source: Any = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command whose parameter ``target`` is given on the command line as --gateway and --output.

    ``source`` is the annotation of a third parameter, for commands that may read from something else than a gateway.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(gateway: str, output: Output, **arguments: Any) -> None:
            place = arguments.pop("source", None) if source is not None else None
            function(target=Target(gateway, output, place or gateway), **arguments)

        signature = inspect.signature(function, eval_str=True)
        own = [item for item in signature.parameters.values() if item.name != "target"]
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter("gateway", keyword, default=DEFAULT_GATEWAY, annotation=Gateway),
            inspect.Parameter("output", keyword, default=Output.table, annotation=OutputOption),
        ]
        if source is not None:
            shared.insert(0, inspect.Parameter("source", keyword, default=None, annotation=source))
        parameters = [item.replace(kind=keyword) for item in own] + shared
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        # typer reads the annotations too, and they must be those of the signature it is shown.
        command.__annotations__ = {item.name: item.annotation for item in parameters}
        del command.__wrapped__
        group.command(name)(command)
        return function

    return register


@app.command()
def version(output: OutputOption = Output.table) -> None:
    """Print the version."""
    number = metadata.version("agent-world")
    if output is Output.json:
        print_json({"version": number})
    else:
        sys.stdout.write(f"agentworld {number}\n")


def run(command: Callable[[], Coroutine[Any, Any, _T]], *, output: Output = Output.table) -> _T:
    """Runs a command's coroutine and turns errors of ours into one sentence and an exit code."""
    try:
        return asyncio.run(command())
    except AgentWorldError as error:
        print_error(error, output)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def exit_code(error: AgentWorldError) -> int:
    """Returns the exit code that stands for an error."""
    if isinstance(error, VerificationFailed):
        return NOT_VERIFIED
    if isinstance(error, GatewayError):
        return NO_ANSWER if error.status == 504 else FAILED
    if isinstance(error, GatewayUnreachable | TimedOut | NotAvailable):
        return NO_ANSWER
    return FAILED


def load_commands() -> None:
    """Puts every command into ``app``: they register themselves when their modules are imported."""
    from agentworld_node.cli import (  # noqa: F401
        agents,
        auditing,
        comparing,
        consensus,
        effects,
        evidence,
        governance,
        inspecting,
        keys,
        modules,
        nodes,
        store,
        worlds,
        writer,
    )


def main() -> None:
    """Runs the command line; whatever happens is told in one sentence, unless AGENTWORLD_DEBUG asks for more."""
    load_commands()
    try:
        app()
    except BrokenPipeError:
        # Whoever read the output has had enough. What is still buffered must not be reported at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:
        if os.environ.get("AGENTWORLD_DEBUG"):
            raise
        unexpected = AgentWorldError(
            f"unexpected {type(error).__name__}: {error}", remedy="set AGENTWORLD_DEBUG=1 to see where it comes from"
        )
        print_error(unexpected, Output.table)
        sys.exit(FAILED)

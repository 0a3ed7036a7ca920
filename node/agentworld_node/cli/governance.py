"""``agentworld module`` and ``agentworld proposal``: what governance changes in a running world, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from agentworld_client import keys as key_files
from agentworld_client.gateway import GatewayClient
from agentworld_client.governor import Governor, manifest_for, read_changes, read_proposal
from agentworld_client.submit import Agent
from agentworld_core.errors import InvalidField, NotFound, Unauthorized
from agentworld_core.world.modules.beginning import BEFORE_ALL
from agentworld_core.world.modules.documents import read_json
from agentworld_core.world.modules.records import ACTIVE_PREFIX
from agentworld_node.cli.app import FAILED, Target, app, client_command, run
from agentworld_node.cli.modules import module_app
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, short

proposals = typer.Typer(
    help="Proposals: created, shadowed, approved by somebody else, applied; each step is signed and in the ledger.",
    no_args_is_help=True,
)
app.add_typer(proposals, name="proposal")

KeyOption = Annotated[Path, typer.Option("--key", "-k", help="A governance key: its private key file.")]
AgentOption = Annotated[
    str | None,
    typer.Option("--agent", "-a", help="The agent that acts; default: one named after the key. Registered when new."),
]
Number = Annotated[int, typer.Argument(min=1, metavar="N", help="The number of the proposal.")]

_T = TypeVar("_T")


@client_command(module_app)
def publish(
    target: Target,
    file: Annotated[Path, typer.Argument(metavar="FILE.wasm", help="The code of the module.")],
    *,
    manifest: Annotated[
        Path, typer.Option("--manifest", "-m", help="The module's manifest as JSON; wasm_hash may be left out.")
    ],
    key: KeyOption,
    agent: AgentOption = None,
    activate: Annotated[
        bool, typer.Option("--activate/--register-only", help="Whether applying puts the version into force.")
    ] = True,
) -> None:
    """Bring a module onto the ledger and propose it; an active one of its id is upgraded.

    Nothing changes until the proposal is shadowed, approved and applied. Doing it again sends only what is missing.
    """

    async def command(governor: Governor) -> dict[str, Any]:
        artifact = await governor.publish(code)
        number = await governor.propose(await governor.changes_for(document, activate=activate))
        return {"artifact": artifact, "proposal": number}

    # What is wrong with the files is said before anything is sent.
    code, document = run(lambda: _module_files(file, manifest), output=target.output)
    _report(target, _govern(target, key, agent, command), "next: agentworld proposal shadow {proposal}")


@client_command(module_app)
def rollback(
    target: Target,
    module: Annotated[str, typer.Argument(metavar="MODULE", help="The module to put back.")],
    *,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it becomes part of the ledger.")],
    key: KeyOption,
    agent: AgentOption = None,
) -> None:
    """Propose to put a module back to the version and the state that it had before its version changed last.

    Nothing changes until the proposal is shadowed, approved and applied; its shadow says what would come back.
    """

    async def command(governor: Governor) -> dict[str, Any]:
        return {"proposal": await governor.propose({"rollback": [{"module_id": module, "reason": reason}]})}

    _report(target, _govern(target, key, agent, command), "next: agentworld proposal shadow {proposal}")


@client_command(module_app, "list")
def list_modules(target: Target) -> None:
    """Show the active modules of a world and what brought them in, as the node says."""

    async def command() -> list[dict[str, Any]]:
        async with GatewayClient(target.gateway) as client:
            active = await client.state_entries(ACTIVE_PREFIX.decode())
            rows = []
            for entry in active:
                module_id, version = entry["key"].removeprefix(ACTIVE_PREFIX.decode()), entry["value"]["version"]
                registered = await client.state(f"module/{module_id}@{version}")
                number = registered["value"]["proposal"]
                origin = "genesis" if number == BEFORE_ALL else f"proposal {number}"
                about = {"module_id": module_id, "version": version, "from": origin}
                rows.append({**about, **registered["value"]["manifest"]})
        return rows

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json({"modules": found})
    elif not found:
        console.print("no module is active; agentworld module publish brings one in")
    else:
        columns = ["Module", "Version", "From", "Kind", "Role", "Code", "Name"]
        names = ("module_id", "version", "from", "kind", "role", "wasm_hash", "name")
        print_rows(columns, [[_cell(name, item) for name in names] for item in found])


@client_command(module_app)
def show(
    target: Target, name: Annotated[str, typer.Argument(metavar="MODULE[@VERSION]", help="Default: the active one.")]
) -> None:
    """Show the manifest of a registered module."""

    async def command() -> dict[str, Any]:
        async with GatewayClient(target.gateway) as client:
            module_id, _, version = name.partition("@")
            if not version:
                active = await client.state(f"active/{module_id}")
                if not active["found"]:
                    raise NotFound("is not active", field="MODULE", value=name, remedy="name a version: MODULE@VERSION")
                version = active["value"]["version"]
            registered = await client.state(f"module/{module_id}@{version}")
            if not registered["found"]:
                raise NotFound("is not registered", field="MODULE", value=f"{module_id}@{version}")
            return dict(registered["value"])

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found)
    else:
        console.print_json(data=found)


@client_command(proposals)
def create(
    target: Target,
    changes: Annotated[Path, typer.Argument(metavar="CHANGES.json", help="What is to change, as JSON.")],
    *,
    key: KeyOption,
    agent: AgentOption = None,
) -> None:
    """Make a proposal: modules to register, upgrade, activate, deactivate, roll back, and a patch of the manifest."""

    async def command(governor: Governor) -> dict[str, Any]:
        return {"proposal": await governor.propose(_object(changes, "CHANGES.json"))}

    _report(target, _govern(target, key, agent, command), "next: agentworld proposal shadow {proposal}")


@client_command(proposals)
def shadow(target: Target, number: Number, *, key: KeyOption, agent: AgentOption = None) -> None:
    """Have the world judge a proposal without applying it, and show the report. Exit code 1 when it fails."""

    async def command(governor: Governor) -> dict[str, Any]:
        return {"proposal": number, **await governor.shadow(number)}

    report = _govern(target, key, agent, command)
    if target.output is Output.json:
        print_json(report)
    else:
        _print_report(report)
    if report["status"] != "ok":
        raise typer.Exit(FAILED)


@client_command(proposals)
def approve(target: Target, number: Number, *, key: KeyOption, agent: AgentOption = None) -> None:
    """Approve a shadowed proposal of somebody else; the keys together must reach the governance threshold."""

    async def command(governor: Governor) -> dict[str, Any]:
        await governor.approve(number)
        return {"proposal": number, "state": (await governor.proposal(number)).state}

    _report(target, _govern(target, key, agent, command), "the proposal is {state}")


@client_command(proposals)
def apply(target: Target, number: Number, *, key: KeyOption, agent: AgentOption = None) -> None:
    """Put an approved proposal into force; it counts from the next block on."""

    async def command(governor: Governor) -> dict[str, Any]:
        await governor.apply(number)
        return {"proposal": number, "state": (await governor.proposal(number)).state}

    _report(target, _govern(target, key, agent, command), "the proposal is {state}")


@client_command(proposals)
def reject(
    target: Target,
    number: Number,
    *,
    key: KeyOption,
    agent: AgentOption = None,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; it becomes part of the ledger.")],
) -> None:
    """Close a proposal for good, whatever state it is in, unless it has been applied."""

    async def command(governor: Governor) -> dict[str, Any]:
        await governor.reject(number, reason)
        return {"proposal": number, "state": (await governor.proposal(number)).state}

    _report(target, _govern(target, key, agent, command), "the proposal is {state}")


@client_command(proposals, "list")
def list_proposals(target: Target) -> None:
    """Show all proposals of a world, as the node says."""

    async def command() -> list[dict[str, Any]]:
        async with GatewayClient(target.gateway) as client:
            entries = await client.state_entries("proposal/")
        named = [(entry["key"].removeprefix("proposal/"), entry["value"]) for entry in entries]
        return [{"proposal": int(name), **value} for name, value in named if name.isdecimal()]

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json({"proposals": found})
    elif not found:
        console.print("there are no proposals")
    else:
        print_rows(
            ["N", "State", "Author", "Approved by", "Reason"],
            [
                [
                    item["proposal"],
                    item["state"],
                    item["author"],
                    ", ".join(approval["approver"] for approval in item["approvals"]),
                    item["reason"],
                ]
                for item in found
            ],
        )


@client_command(proposals, "show")
def show_proposal(target: Target, number: Number) -> None:
    """Show a proposal: what it changes, its report, who approved it. A closed one shows no changes; its events do."""

    async def command() -> dict[str, Any]:
        async with GatewayClient(target.gateway) as client:
            record = await read_proposal(client, number)
            changes = await read_changes(client, number)
            return {"proposal": number, **dataclasses.asdict(record), "changes": changes}

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found)
        return
    print_pairs(f"Proposal {number}", [(name, found[name]) for name in ("state", "author", "base", "tick", "reason")])
    print_rows(["Approved by", "Key"], [[item["approver"], item["key_id"]] for item in found["approvals"]])
    if found["report"]:
        _print_report(found["report"])
    if found["changes"]:
        console.print_json(data=found["changes"])


def _govern(target: Target, key: Path, agent: str | None, command: Callable[[Governor], Awaitable[_T]]) -> _T:
    """Runs a command as an agent of governance, which is registered when it is new."""

    async def governing() -> _T:
        signer = key_files.load(key)
        async with GatewayClient(target.gateway, patience=30) as client:
            if signer.key_id not in [item.key_id for item in (await client.directory()).governance]:
                raise Unauthorized(
                    "is no governance key of this world", field="--key", value=key, remedy="see agentworld keys list"
                )
            world_id = (await client.genesis()).world_id
            actor_id = agent or f"governance-{signer.key_id[:12]}"
            governor = Governor(client, Agent(signer, world_id=world_id, actor_id=actor_id))
            await governor.register()
            return await command(governor)

    return run(governing, output=target.output)


def _report(target: Target, answer: dict[str, Any], then: str) -> None:
    if target.output is Output.json:
        print_json(answer)
    else:
        print_pairs("Done", answer.items())
        console.print(then.format_map(answer))


def _print_report(report: dict[str, Any]) -> None:
    print_pairs("Shadow", [(name, report[name]) for name in ("status", "manifest_hash")])
    for line in report["changes"]:
        console.print(f"  would change: {line}", markup=False)
    for item in report["warnings"]:
        console.print(f"  warning: {item['path']}: {item['message']}", markup=False)
    for item in report["errors"]:
        console.print(f"  error: {item['code']} {item['path']}: {item['message']}", markup=False)


async def _module_files(file: Path, manifest: Path) -> tuple[bytes, dict[str, Any]]:
    """Returns code and manifest of a module; raises InvalidField for what no world would take."""
    code, document = _read(file, "FILE.wasm"), _object(manifest, "--manifest")
    return code, manifest_for(code, document)


def _cell(name: str, item: dict[str, Any]) -> object:
    return short(item.get(name)) if name == "wasm_hash" else item.get(name, "domain" if name == "role" else None)


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field=field, value=path) from error


def _object(path: Path, field: str) -> dict[str, Any]:
    """Returns the JSON object in a file; raises InvalidField."""
    try:
        text = _read(path, field).decode()
    except UnicodeDecodeError as error:
        raise InvalidField(f"is not JSON: {error}", field=field, value=path) from error
    found = read_json(text, field)
    if not isinstance(found, dict):
        raise InvalidField("must be a JSON object", field=field, value=path)
    return found

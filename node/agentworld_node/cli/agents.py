"""The client's commands: submit, head, follow, status."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from agentworld_client import keys as key_files
from agentworld_client.errors import GatewayUnreachable
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all
from agentworld_core.errors import InvalidField, TimedOut
from agentworld_node.cli.app import FAILED, NO_ANSWER, Target, app, client_command, run
from agentworld_node.cli.local import world_behind
from agentworld_node.cli.output import Output, console, errors, print_json, print_pairs, print_rows, short
from agentworld_node.cli.world_view import print_world
from agentworld_node.supervisor.state import WorldState


@client_command(app)
def submit(
    target: Target,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="KIND [PAYLOAD]…", help="Kinds of action, each with a payload as JSON."),
    ] = None,
    *,
    key: Annotated[Path, typer.Option("--key", "-k", help="The agent's private key file.")],
    agent: Annotated[str, typer.Option("--agent", "-a", help="The agent's id.")],
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help='JSON lines {"kind": …, "payload": …}; "-" reads standard input.'),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the actions are committed.")] = True,
) -> None:
    """Sign and submit one action, or many, for instance ``agent.move '{"to": [3, 4]}'``.

    A receipt says pooled or committed; only committed is a promise. Exit code 1 when an action was refused, 3 when one
    is not committed in time, or unknown because no answer came.
    """

    async def command() -> list[dict[str, Any]]:
        signer = key_files.load(key)
        wanted = _read_actions(file) if file is not None else _actions_of(words or [])
        async with GatewayClient(target.gateway) as client:
            world_id = (await client.genesis()).world_id
            actor = Agent(signer, world_id=world_id, actor_id=agent)
            actions = [actor.act(item_kind, item_payload) for item_kind, item_payload in wanted]
            return await submit_all(client, actions, wait=wait)

    receipts = run(command, output=target.output)
    if target.output is Output.json:
        for receipt in receipts:
            print_json(receipt)
    else:
        print_rows(["Action", "Status", "Height", "Outcome"], [_receipt_row(receipt) for receipt in receipts])
    states = [_status(receipt) for receipt in receipts]
    if "refused" in states or any(receipt.get("ok") is False for receipt in receipts):
        raise typer.Exit(FAILED)
    if "unknown" in states or (wait and any(state != "committed" for state in states)):
        raise typer.Exit(NO_ANSWER)


def _actions_of(words: list[str]) -> list[tuple[str, Any]]:
    if not words:
        raise InvalidField("is required", field="KIND", remedy="give a kind such as agent.register, or --file")
    actions: list[tuple[str, Any]] = []
    for word in words:
        if actions and word.lstrip().startswith("{"):
            actions[-1] = (actions[-1][0], _parse_json(word, "PAYLOAD"))
        else:
            actions.append((word, {}))
    return actions


def _read_actions(file: Path) -> list[tuple[str, Any]]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidField(f"cannot be read: {error}", field="--file", value=file) from error
    actions = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            item = _parse_json(line, f"line {number}")
            if not isinstance(item, dict) or "kind" not in item:
                raise InvalidField("has no kind", field=f"line {number}", remedy='use {"kind": …, "payload": {…}}')
            payload = item.get("payload", {})
            if not isinstance(payload, dict):
                raise InvalidField("must be an object", field=f"line {number}.payload", value=payload)
            actions.append((str(item["kind"]), payload))
    if not actions:
        raise InvalidField("holds no actions", field="--file", value=file)
    return actions


def _parse_json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidField(f"is not JSON: {error}", field=field, value=text) from error


def _status(receipt: dict[str, Any]) -> str:
    """Returns the status of a receipt, refused, or unknown for an action to which no answer came."""
    if "error" not in receipt:
        return str(receipt["status"])
    return "unknown" if receipt["error"]["code"] == GatewayUnreachable.code else "refused"


def _receipt_row(receipt: dict[str, Any]) -> list[object]:
    if "error" in receipt:
        error = receipt["error"]
        return [short(receipt.get("action_id")), _status(receipt), None, f"{error['code']}: {error['message']}"]
    outcome = "-"
    if receipt["status"] == "committed":
        outcome = "ok" if receipt["ok"] else f"{receipt['code']}: {receipt['message']}"
    return [short(receipt["action_id"]), receipt["status"], receipt.get("height"), outcome]


@client_command(app)
def head(target: Target) -> None:
    """Show the newest committed block of a node."""

    async def command() -> dict[str, Any] | None:
        async with GatewayClient(target.gateway) as client:
            found = await client.head()
        if found is None:
            return None
        return {
            "world": found.world_id,
            "height": found.height,
            "block_hash": found.block_hash,
            "state_root": found.state_root,
            "term": found.term,
            "epoch": found.directory_epoch,
            "signers": len(found.certificate.votes),
        }

    facts = run(command, output=target.output)
    if target.output is Output.json:
        print_json(facts)
    elif facts is None:
        console.print("no block has been committed yet; submit an action first")
    else:
        print_pairs("Head", [(name.replace("_", " "), value) for name, value in facts.items()])


@client_command(app)
def status(target: Target) -> None:
    """Show what a node knows of itself, its writer and its peers; and the whole world where it runs on this machine."""

    async def command() -> tuple[dict[str, Any], WorldState | None]:
        async with GatewayClient(target.gateway) as client:
            return await client.status(), await world_behind(target.gateway)

    found, world = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found if world is None else {**found, "local_world": world.as_dict()})
        return
    if world is not None:
        print_world(world)
    print_pairs(
        f"Node {found['node_id']}",
        [
            ("world", found["world_id"]),
            ("roles", ", ".join(found["roles"])),
            ("height", found["head"]["height"]),
            ("state root", found["head"]["state_root"]),
            ("epoch", found["directory"]["epoch"]),
            ("writer", f"{found['writer']['holder'] or '-'} (term {found['writer']['term']})"),
            ("signing key", found["signing"]["active_key_id"] or "-"),
            ("sync", f"{found['sync']['state']} (lag {found['sync']['lag']})"),
            ("mempool", found["mempool"]["actions"]),
            ("progress", found["consensus"]["message"]),
            ("peers", f"{len(found['peers']['connected'])} of {found['peers']['expected']}"),
        ],
    )


@client_command(app)
def follow(
    target: Target,
    start: Annotated[int | None, typer.Option("--from", min=1, help="First height; default: the next block.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Stop after this many blocks.")] = None,
) -> None:
    """Print blocks and their events as they are committed, until interrupted."""

    async def command() -> None:
        seen = 0
        async with GatewayClient(target.gateway) as client:
            if start is not None and start > (newest := (await client.status())["head"]["height"]) + 1:
                errors.print(f"[dim]the newest height is {newest}; waiting for {start}[/]")
            async for document in client.events(start):
                if target.output is Output.json:
                    print_json(document)
                else:
                    says = f" {short(document['block_hash'])} by {document['proposer_id']} term {document['term']}"
                    events = f": {len(document['events'])} events"
                    console.print(Text.assemble((str(document["height"]), "bold"), says, events))
                seen += 1
                if count is not None and seen >= count:
                    return
        raise TimedOut("the gateway closed the stream", remedy="run it again with --from to go on")

    run(command, output=target.output)

"""``agentworld inspect``: look at one thing of a world, with what proves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from agentworld_client.inspector import Inspector
from agentworld_core.ids import check_id
from agentworld_node.cli.app import Target, app, client_command, run
from agentworld_node.cli.auditing import GenesisHash
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, value_text
from agentworld_node.cli.sources import SourceOption, open_source

inspect_app = typer.Typer(
    help="Look at one thing of a world: a block, a value, a receipt, a snapshot, a segment; each with what proves it.",
    no_args_is_help=True,
)
app.add_typer(inspect_app, name="inspect")

_BLOCK = (
    "block_hash", "world_id", "height", "prev_block_hash", "timestamp_ms", "tick", "term", "attempt", "proposer_id",
    "key_id", "directory_epoch", "action_root", "event_root", "receipts_root", "prev_state_root", "state_root",
    "journal_ref", "snapshot_ref",
)  # fmt: skip
_ACTION = ("actor_id", "action_kind", "nonce", "timestamp_ms")

Height = Annotated[int | None, typer.Option("--height", min=0, help="The state after this height; default: the head.")]


@client_command(inspect_app, source=SourceOption)
def block(
    target: Target,
    block_id: Annotated[str, typer.Argument(metavar="ID", help="A height or a block hash.")],
    genesis_hash: GenesisHash = None,
) -> None:
    """Show a block with its actions and certificate."""
    found = _ask(target, genesis_hash, lambda inspector: inspector.block(block_id))
    if target.output is Output.json:
        print_json(found)
        return
    print_pairs(f"Block {found['height']}", [(name.replace("_", " "), found[name]) for name in _BLOCK])
    print_rows(
        ["Segment", "First event", "Last event", "Bytes"],
        [
            (item["content_hash"], item["from_event_id"], item["to_event_id"], item["size_bytes"])
            for item in found["segments"]
        ],
    )
    rows = [(item["action_id"], item["actor_id"], item["action_kind"], item["nonce"]) for item in found["actions"]]
    print_rows(["Action", "Actor", "Kind", "Nonce"], rows)
    votes = [(item["validator_id"], item["key_id"]) for item in found["certificate"]["votes"]]
    print_rows(["Voted for it", "Key id"], votes)
    _print_proof(found)


@client_command(inspect_app, source=SourceOption)
def state(
    target: Target,
    key: Annotated[str, typer.Argument(metavar="ID", help="A state key, for instance meta or mail/ada/….")],
    genesis_hash: GenesisHash = None,
    height: Height = None,
) -> None:
    """Show the value under a state key."""
    _show_state(target, genesis_hash, key, height)


@client_command(inspect_app, "object", source=SourceOption)
def object_(
    target: Target,
    object_id: Annotated[str, typer.Argument(metavar="ID", help="The object's id.")],
    genesis_hash: GenesisHash = None,
    height: Height = None,
) -> None:
    """Show an object: its owner, version and data."""
    _show_state(target, genesis_hash, object_id, height, prefix="object/")


@client_command(inspect_app, source=SourceOption)
def agent(
    target: Target,
    agent_id: Annotated[str, typer.Argument(metavar="ID", help="The agent's id.")],
    genesis_hash: GenesisHash = None,
    height: Height = None,
) -> None:
    """Show an agent: its key, position and mailbox counters."""
    _show_state(target, genesis_hash, agent_id, height, prefix="agent/")


@client_command(inspect_app, source=SourceOption)
def receipt(
    target: Target,
    action_id: Annotated[str, typer.Argument(metavar="ID", help="The action's id.")],
    genesis_hash: GenesisHash = None,
) -> None:
    """Show what became of an action."""
    found = _ask(target, genesis_hash, lambda inspector: inspector.receipt(action_id))
    if target.output is Output.json:
        print_json(found)
        return
    pairs = [(name.replace("_", " "), value) for name, value in found.items() if name not in ("action", "proof")]
    pairs += [(name.replace("_", " "), value) for name, value in (found.get("action") or {}).items() if name in _ACTION]
    print_pairs("Receipt", pairs)
    _print_proof(found)


@client_command(inspect_app, source=SourceOption)
def snapshot(
    target: Target,
    snapshot_id: Annotated[str, typer.Argument(metavar="ID", help="A height or the content id of a manifest.")],
    genesis_hash: GenesisHash = None,
) -> None:
    """Show a snapshot and its chunks."""
    found = _ask(target, genesis_hash, lambda inspector: inspector.snapshot(snapshot_id))
    if target.output is Output.json:
        print_json(found)
        return
    names = ("snapshot_ref", "world_id", "epoch", "state_root", "size_bytes")
    print_pairs(f"Snapshot {found['epoch']}", [(name.replace("_", " "), found[name]) for name in names])
    print_rows(
        ["Chunk", "First key", "Bytes"],
        [
            (item["content_hash"], bytes.fromhex(item["first_key"]).decode(errors="replace"), item["size_bytes"])
            for item in found["chunks"]
        ],
    )
    _print_proof(found)


@client_command(inspect_app, source=SourceOption)
def segment(
    target: Target,
    segment_id: Annotated[str, typer.Argument(metavar="ID", help="The content id of a journal segment.")],
    genesis_hash: GenesisHash = None,
) -> None:
    """Show the events of a journal segment."""
    found = _ask(target, genesis_hash, lambda inspector: inspector.segment(segment_id))
    if target.output is Output.json:
        print_json(found)
        return
    print_pairs("Segment", [(name, found[name]) for name in ("segment", "height", "size_bytes")])
    rows = [
        (item["event_id"], item["kind"], item["caused_by"] or None, value_text(item["payload"]))
        for item in found["events"]
    ]
    print_rows(["Event", "Kind", "Caused by", "Payload"], rows)
    _print_proof(found)


def _ask(
    target: Target, genesis_hash: str | None, question: Callable[[Inspector], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    async def command() -> dict[str, Any]:
        async with open_source(target.source) as source:
            return await question(await Inspector.open(source, trusted_genesis=genesis_hash))

    return run(command, output=target.output)


def _show_state(target: Target, genesis_hash: str | None, name: str, height: int | None, *, prefix: str = "") -> None:
    async def question(inspector: Inspector) -> dict[str, Any]:
        key = prefix + (check_id(name, field="id") if prefix else name)
        return await inspector.state(key, height=height)

    found = _ask(target, genesis_hash, question)
    if target.output is Output.json:
        print_json(found)
        return
    value = found["value"]
    pairs = list(value.items()) if isinstance(value, dict) else [("value", value)]
    pairs += [("height", found["height"]), ("state root", found["state_root"])]
    print_pairs(escape(found["key"]), [(str(name), value_text(item)) for name, item in pairs])
    _print_proof(found)


def _print_proof(found: dict[str, Any]) -> None:
    for sentence in found["proof"]:
        console.print(f"[green]checked[/] {escape(sentence)}")
    if not found["proof"]:
        console.print("[yellow]not proved[/] this is only what the node says")

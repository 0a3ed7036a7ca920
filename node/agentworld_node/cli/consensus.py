"""``agentworld consensus status``: the height being decided, on one screen, and why it moves or does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape

from agentworld_client.gateway import GatewayClient
from agentworld_core.consensus.verdict import IDLE
from agentworld_node.cli.app import Target, app, client_command, run
from agentworld_node.cli.local import node_url
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, short

ANSWER_SECONDS = 5.0

consensus_app = typer.Typer(help="See how the next block is decided.", no_args_is_help=True)
app.add_typer(consensus_app, name="consensus")

Node = Annotated[
    str | None, typer.Option("--node", help="A node by its id, in a world that runs on this machine; else --gateway.")
]


@client_command(consensus_app, "status")
def consensus_status(target: Target, node: Node = None) -> None:
    """Show the height being decided: round, votes, who is missing, the lease, and why it moves or does not.

    Every node answers from what it sees itself; one that does not vote shows the votes that it has heard of.
    """

    async def command() -> dict[str, Any]:
        url = target.gateway if node is None else await node_url(node)
        # What this shows is known at once to a node that runs; who looks why nothing moves is not to wait as well.
        async with GatewayClient(url, patience=0, request_timeout=ANSWER_SECONDS) as client:
            return await client.consensus()

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found)
        return
    verdict = found["verdict"]
    idle = verdict["state"] == IDLE
    style, word = ("red", "stalled") if verdict["stalled"] else ("green", "ok") if idle else ("yellow", "deciding")
    waited = f" (for {seconds(verdict['waited_ms'])})" if verdict["waited_ms"] and not idle else ""
    console.print(f"[{style}]{word}[/] {escape(verdict['message'])}{waited}")
    print_pairs(f"World {found['world_id']} as {found['node_id']} sees it", _facts(found))
    if found["validators"]:
        print_rows(["Validator", "Weight", "In touch", "Prevote", "Precommit"], map(_row, found["validators"]))
    if not found["votes"]:
        others = ", ".join(item["validator_id"] for item in found["validators"])
        console.print(f"{found['node_id']} does not vote; what a validator sees, it says itself: {others}")


def seconds(milliseconds: int | None) -> str:
    """Returns a time for people; a dash for an unknown one."""
    return "-" if milliseconds is None else f"{milliseconds / 1000:.1f} s"


def _facts(found: Mapping[str, Any]) -> list[tuple[str, object]]:
    head = found["head"]
    since = "before this node started" if head["since_ms"] is None else f"{seconds(head['since_ms'])} ago"
    facts: list[tuple[str, object]] = [
        ("head", f"{head['height']}, committed {since}" if head["height"] else "none yet")
    ]
    facts.append(("waiting actions", found["pool"]["actions"]))
    facts.append(("writer lease", _lease(found["lease"])))
    if found["height"] is None:
        return facts
    round_, quorum = found["round"], found["quorum"]
    facts += [
        ("deciding height", f"{found['height']} (epoch {found['epoch']})"),
        ("round", f"term {round_['term']}, attempt {round_['attempt']}" + _step(found["step"])),
        ("proposer", _proposer(found)),
        ("proposal", short(found["proposal"])),
        ("quorum", f"{quorum['needed']} of {quorum['total']}"),
        ("prevotes", _tally(quorum["prevotes"], found["missing"]["prevotes"])),
        ("precommits", _tally(quorum["precommits"], found["missing"]["precommits"])),
    ]
    facts += [(name, _place(found[name])) for name in ("locked", "valid") if found[name] is not None]
    return facts


def _step(step: str | None) -> str:
    return "" if step is None else f", step {step}"


def _proposer(found: Mapping[str, Any]) -> str:
    if found["proposer"] is None:
        return "not known here"
    if found["may_propose"] != found["proposer"]:
        return f"{found['proposer']} (its lease is over)"
    return f"{found['proposer']}{' (the validators propose in turn)' if found['in_turn'] else ''}"


def _lease(lease: Mapping[str, Any] | None) -> str:
    if lease is None:
        return "not seen by this node"
    silent = "" if lease["store_answers"] else "; its store does not answer"
    if lease["holder"] is None:
        return f"nobody, for {seconds(lease['unchanged_ms'])} (term {lease['term']}){silent}"
    left = f"{seconds(lease['expires_in_ms'])} left unless renewed"
    return f"{lease['holder']} (term {lease['term']}) for {seconds(lease['unchanged_ms'])}, {left}{silent}"


def _tally(weight: int, missing: list[str]) -> str:
    return f"{weight}" + (f", missing: {', '.join(missing)}" if missing else "")


def _place(place: Mapping[str, Any]) -> str:
    return f"{short(place['block_hash'])} since term {place['term']}, attempt {place['attempt']}"


def _row(item: Mapping[str, Any]) -> list[object]:
    touch = "yes" if item["in_touch"] else "no"
    return [item["validator_id"], item["weight"], touch, _vote(item["prevote"]), _vote(item["precommit"])]


def _vote(vote: Mapping[str, Any] | None) -> str:
    if vote is None:
        return "-"
    return "for none" if vote["block_hash"] is None else short(vote["block_hash"])

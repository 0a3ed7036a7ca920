"""``agentworld effect``: what modules have asked for outside of the world, and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentworld_client import keys as key_files
from agentworld_client.effects import EffectWorker, read_effect, read_params, waiting_effects
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent
from agentworld_core.codec import Value
from agentworld_core.errors import InvalidField
from agentworld_node.cli.app import Target, app, client_command, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs, print_rows, short
from agentworld_node.cli.plain_json import parse, render

effects = typer.Typer(
    help="Effects: what modules ask for outside of the world; a signed receipt settles each of them once.",
    no_args_is_help=True,
)
app.add_typer(effects, name="effect")

Intent = Annotated[int, typer.Argument(min=1, metavar="N", help="The number of the effect.")]


@client_command(effects, "list")
def list_effects(target: Target) -> None:
    """Show the effects that wait for their receipts, as the node says."""

    async def command() -> list[dict[str, Any]]:
        async with GatewayClient(target.gateway) as client:
            return [item.as_dict() for item in await waiting_effects(client)]

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json({"effects": found})
    elif not found:
        console.print("no effect waits for a receipt")
    else:
        columns = ["N", "Kind", "Module", "Capability", "Since height", "Until height"]
        names = ("intent", "kind", "module_id", "cap_ref", "tick", "expires_tick")
        print_rows(columns, [[item[name] or None for name in names] for item in found])


@client_command(effects)
def show(target: Target, number: Intent) -> None:
    """Show an effect that waits, with its parameters, which are checked against the hash in the state."""

    async def command() -> dict[str, Any]:
        async with GatewayClient(target.gateway) as client:
            record = await read_effect(client, number)
            params = await read_params(client, number, record)
        fields = ("kind", "module_id", "cap_ref", "tick", "expires_tick", "params_hash")
        return {"intent": number, **{name: getattr(record, name) for name in fields}, "params": render(params)}

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found)
        return
    print_pairs(f"Effect {number}", [(name, found[name]) for name in found if name not in ("intent", "params")])
    console.print_json(data=found["params"])


@client_command(effects)
def settle(
    target: Target,
    number: Intent,
    receipt: Annotated[
        str,
        typer.Argument(metavar="RECEIPT", help='JSON: {"status": "done" or "failed", "result": …}; also cost_cents.'),
    ],
    *,
    key: Annotated[
        Path,
        typer.Option("--key", "-k", help="The private key that signs: one that the capability or governance names."),
    ],
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent", "-a", help="The agent that acts; default: one named after the key. Registered when new."
        ),
    ] = None,
) -> None:
    """Sign what became of an effect and bring it onto the ledger; the module is told. Each effect is settled once."""

    async def command() -> dict[str, Any]:
        given = _receipt(receipt)
        signer = key_files.load(key)
        async with GatewayClient(target.gateway, patience=30) as client:
            world_id = (await client.genesis()).world_id
            actor_id = agent or f"worker-{signer.key_id[:12]}"
            worker = EffectWorker(client, Agent(signer, world_id=world_id, actor_id=actor_id))
            await worker.register()
            taken = await worker.settle(number, **given)
        return {"intent": number, "status": given["status"], "height": taken["height"], "action_id": taken["action_id"]}

    found = run(command, output=target.output)
    if target.output is Output.json:
        print_json(found)
    else:
        settled = f"Effect {number} is settled as {found['status']}"
        console.print(f"{settled} at height {found['height']} by action {short(found['action_id'])}")


def _receipt(text: str) -> dict[str, Any]:
    """Returns the arguments that a receipt on the command line stands for; raises InvalidField."""
    given: Value = parse(text, field="RECEIPT")
    if not isinstance(given, dict) or not {"status", "result"} <= given.keys() <= {"status", "result", "cost_cents"}:
        raise InvalidField("must be an object of status, result and maybe cost_cents", field="RECEIPT", value=text)
    cost = given.get("cost_cents")
    if cost is not None and (type(cost) is not int or cost < 0):
        raise InvalidField("must be a whole number from 0", field="RECEIPT.cost_cents", value=cost)
    return {"status": str(given["status"]), "result": given["result"], "cost_cents": cost}

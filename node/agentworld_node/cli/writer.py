"""``agentworld writer``: hand the writer lease to another validator on purpose."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agentworld_client import keys as key_files
from agentworld_client.gateway import GatewayClient
from agentworld_core.errors import InvalidField
from agentworld_core.membership.directory import usable_governance
from agentworld_core.messages import Directory
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_core.signing import Ed25519Signer, add_signature
from agentworld_node.cli.app import Target, app, client_command, run
from agentworld_node.cli.local import folder_behind
from agentworld_node.cli.output import Output, console, print_json
from agentworld_node.supervisor.home import WorldHome

VALID_MS = 60_000

writer_app = typer.Typer(help="Choose who writes.", no_args_is_help=True)
app.add_typer(writer_app, name="writer")


@client_command(writer_app, "transfer")
def transfer(
    target: Target,
    to: Annotated[str, typer.Option("--to", help="The validator that is to write, by its id.")],
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key", "-k",
            help="A governance key file; may be repeated. Not needed for a world that runs on this machine.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Hand the writer lease to a validator: no action is lost or doubled, and blocks go on at once.

    It is refused when the validator is no member, not in touch with the writer, not ready, or behind.
    """

    async def command() -> dict[str, Any]:
        async with GatewayClient(target.gateway, patience=0) as client:
            directory, before = await client.directory(), await client.writer()
            if before["holder_id"] == to:
                return {"from": to, **before, "took_ms": 0}
            wish = WriterTransfer(
                world_id=directory.world_id,
                target_id=to,
                term=before["term"],
                expires_at_ms=time.time_ns() // 1_000_000 + VALID_MS,
                signatures=(),
            )
            for signer in await asyncio.to_thread(_signers, key or [], target.gateway, directory):
                wish = add_signature(wish, signer)
            began = time.monotonic()
            after = await client.transfer_writer(wish)
            return {"from": before["holder_id"], **after, "took_ms": int((time.monotonic() - began) * 1000)}

    done = run(command, output=target.output)
    if target.output is Output.json:
        print_json(done)
    else:
        term = f"term {done['term']}"
        moved = f"from {done['from']} in {done['took_ms']} ms" if done["from"] != to else "as before"
        console.print(f"{done['holder_id']} writes, {term}, {moved}")


def _signers(files: list[Path], gateway: str, directory: Directory) -> list[Ed25519Signer]:
    """Returns the governance signers of key files, or of the world behind the gateway when it runs on this machine."""
    folder = None if files else folder_behind(gateway)
    if not files and folder is None:
        remedy = "give --key with a governance key file; on Kubernetes it is in a Secret of type governance key"
        raise InvalidField("is required: the world behind the gateway does not run here", field="--key", remedy=remedy)
    found = [key_files.load(path) for path in files] if folder is None else WorldHome(folder).all_signers()
    usable = [entry.key_id for entry in usable_governance(directory, ())]
    chosen = [signer for signer in found if signer.key_id in usable]
    if not chosen:
        raise InvalidField("holds no governance key of this world", field="--key", value=", ".join(map(str, files)))
    return chosen

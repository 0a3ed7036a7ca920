"""``agentworld keys``: make and look at key files, and list the keys that a world trusts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentworld_client import keys as key_files
from agentworld_client.gateway import GatewayClient
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer
from agentworld_node.cli.app import OutputOption, Target, app, client_command, run
from agentworld_node.cli.output import Output, print_json, print_pairs, print_rows

keys_app = typer.Typer(help="Make and look at keys.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@keys_app.command()
def generate(
    file: Annotated[Path, typer.Argument(help="The file to write (PKCS#8 PEM, mode 0600).")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    output: OutputOption = Output.table,
) -> None:
    """Make a new Ed25519 key."""

    async def command() -> Ed25519Signer:
        signer = key_files.generate()
        key_files.save(signer, file, overwrite=force)
        return signer

    _show(run(command, output=output), file, output)


@keys_app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A private key file.")], output: OutputOption = Output.table
) -> None:
    """Show the public half of a key file."""

    async def command() -> Ed25519Signer:
        return key_files.load(file)

    _show(run(command, output=output), file, output)


@client_command(keys_app, "list")
def list_keys(target: Target) -> None:
    """List the keys that a world's latest directory trusts, and those that are revoked."""

    async def command() -> list[dict[str, Any]]:
        async with GatewayClient(target.gateway) as client:
            directory = await client.directory()
        rows = [
            {"owner": "governance", "key_id": key.key_id, "generation": key.generation, "state": "trusted"}
            for key in directory.governance
        ]
        rows += [
            {"owner": member.member_id, "key_id": key.key_id, "generation": key.generation, "state": "trusted"}
            for member in directory.members
            for key in member.keys
        ]
        rows += [
            {"owner": None, "key_id": revoked.key_id, "generation": None, "state": "revoked"}
            for revoked in directory.revoked
        ]
        return rows

    rows = run(command, output=target.output)
    if target.output is Output.json:
        print_json(rows)
    else:
        columns = ("owner", "key_id", "generation", "state")
        print_rows(
            [name.replace("_", " ").title() for name in columns], [[row[name] for name in columns] for row in rows]
        )


def _show(signer: Ed25519Signer, file: Path, output: Output) -> None:
    facts = {
        "file": str(file),
        "key_id": signer.key_id,
        "public_key": signer.public_key.hex(),
        "peer_id": peer_id_of(signer.public_key),
    }
    if output is Output.json:
        print_json(facts)
    else:
        print_pairs("Key", [(name.replace("_", " "), value) for name, value in facts.items()])

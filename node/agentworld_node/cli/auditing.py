"""The auditor's commands: verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentworld_client.verifier import BundleStore, VerificationReport, Verifier
from agentworld_node.cli.app import Target, app, client_command, run
from agentworld_node.cli.output import Output, print_json, print_pairs
from agentworld_node.cli.sources import SourceArgument, open_source, progress_bar

GenesisHash = Annotated[
    str | None,
    typer.Option(
        "--genesis-hash", "--genesis", metavar="HASH", help="Hash of the genesis you trust; without it the one there."
    ),
]


@client_command(app, source=SourceArgument)
def verify(
    target: Target,
    *,
    replay: Annotated[
        bool, typer.Option("--replay", help="Also execute every batch again and compare every root.")
    ] = False,
    genesis_hash: GenesisHash = None,
    start: Annotated[
        int,
        typer.Option("--from", min=1, help="First height to check; what is before it is taken from a signed snapshot."),
    ] = 1,
    up_to: Annotated[
        int | None, typer.Option("--to", "--height", min=0, help="Last height to check; default: the newest.")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Folder to keep fetched blocks in.")] = None,
) -> None:
    """Check every hash, link, signature and certificate of a world; with --replay also every state root.

    Trusts nothing but the genesis document: give its hash with --genesis-hash. Exit codes: 0 everything is right, 4 the
    first wrong height is named, with the object and field, and with --replay the first action whose result is another;
    3 no answer, or the height is not there yet; 1 the source cannot be read; 2 wrong usage.
    """

    async def command() -> VerificationReport:
        async with open_source(target.source) as place:
            verifier = Verifier(
                await place.genesis(),
                replay=replay,
                store=None if store is None else BundleStore(store),
                trusted_genesis=genesis_hash,
            )
            with progress_bar("replaying" if replay else "verifying", target.output) as advance:
                return await verifier.verify(place, start=start, up_to=up_to, progress=advance)

    report = run(command, output=target.output)
    if target.output is Output.json:
        print_json(report.as_dict())
        return
    how = "hashes, links, signatures, certificates" + (", every batch executed again" if replay else "")
    print_pairs(
        "Verified and replayed" if replay else "Verified",
        [
            ("world", report.world_id),
            ("genesis", report.genesis_hash + ("" if genesis_hash else "  (as it is there; pin it: --genesis-hash)")),
            ("governance keys", ", ".join(report.governance_keys)),
            ("heights", f"{report.from_height} to {report.height}"),
            ("checked", how),
            ("actions", report.actions),
            ("directory epoch", report.epoch),
            ("state root", report.state_root + ("" if replay else "  (as the quorum signed it; --replay proves it)")),
            ("blocks", f"{report.fetched_blocks} read, {report.stored_blocks} from the store"),
        ],
    )

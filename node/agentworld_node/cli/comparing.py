"""The command that finds where two nodes, data folders or archives of one world part."""

from __future__ import annotations

from typing import Annotated

import typer

from agentworld_client.divergence import Comparison, Divergence, Verdict, compare
from agentworld_node.cli.app import NOT_VERIFIED, Target, app, client_command, run
from agentworld_node.cli.output import Output, console, print_json, print_pairs
from agentworld_node.cli.sources import SourceOption, new_sandbox, open_source, progress_bar


@client_command(app, "compare", source=SourceOption)
def compare_(
    target: Target,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="An address, a data folder or an archive.")],
    *,
    replay: Annotated[
        bool, typer.Option("--replay", help="Also execute both blocks where they part, and say which one is right.")
    ] = False,
    up_to: Annotated[
        int | None, typer.Option("--to", min=0, help="Last height to compare; default: the last that both have.")
    ] = None,
) -> None:
    """Find the first height, and the first action there, at which two sources of a world part.

    Reads about log2(height) blocks of each and believes neither. Exit codes: 0 they agree up to the last height that
    both have, 4 they part, or one contradicts itself; 3 no answer; 1 a source cannot be read; 2 wrong usage.
    """

    async def command() -> Comparison:
        async with open_source(target.source) as one, open_source(other) as second:
            with progress_bar("comparing", target.output) as advance:
                return await compare(
                    one,
                    second,
                    replay=replay,
                    sandbox=new_sandbox() if replay else None,
                    up_to=up_to,
                    progress=advance,
                )

    found = run(command, output=target.output)
    if target.output is Output.json:
        document = {"agreed": found.agreed, "compared": found.compared, "probes": found.probes}
        parted = None if found.divergence is None else found.divergence.as_dict()
        print_json({**document, "divergence": parted})
    else:
        _print(found, (target.source, other))
    if found.divergence is not None:
        raise typer.Exit(NOT_VERIFIED)


def _print(found: Comparison, names: tuple[str, str]) -> None:
    parted = found.divergence
    if parted is None:
        console.print(f"The same up to height {found.agreed} (heights compared: {found.probes})")
        return
    pairs: list[tuple[str, object]] = [
        ("the same up to", f"height {found.agreed}, block {parted.parent_hash}"),
        ("one", f"{names[0]}: block {parted.block_hashes[0]}, state root {parted.state_roots[0]}"),
        ("the other", f"{names[1]}: block {parted.block_hashes[1]}, state root {parted.state_roots[1]}"),
        ("fields that differ", ", ".join(parted.fields)),
        ("first action", _action(parted)),
    ]
    pairs += [
        (f"executed: {name}", _verdict(verdict))
        for name, verdict in zip(("one", "the other"), parted.verdicts, strict=False)
    ]
    title = f"They part at height {parted.height} (found by comparing {found.probes} of {found.compared} heights)"
    print_pairs(title, pairs)


def _action(parted: Divergence) -> str:
    if parted.position >= 0:
        one, other = (action or "nothing" for action in parted.actions)
        return f"the batches differ from position {parted.position} on: one has {one}, the other {other}"
    if parted.difference is not None:
        return str(parted.difference)
    return "the batches are the same; the sources do not show their journals and receipts, or these are the same too"


def _verdict(verdict: Verdict) -> str:
    if verdict.right:
        return "right: execution and the quorum's certificate agree"
    return verdict.error if verdict.difference is None else f"{verdict.error}; {verdict.difference}"

"""What is left of a ledger whose disk has failed or lost its power."""

from __future__ import annotations

import contextlib

from agentworld_core.errors import AgentWorldError
from agentworld_node.ledger import Ledger
from tests.unit.storage.faults import PowerCut


async def let_go(ledger: Ledger) -> None:
    """Ends the tasks and threads of a ledger and closes its files, whatever its disk says to that."""
    with contextlib.suppress(PowerCut, AgentWorldError):
        await ledger.settle()
    if ledger._snapshot is not None and ledger._snapshot.done():
        ledger._snapshot.exception()
    ledger._stores.index.close()
    for log in (ledger._stores.votes, ledger._stores.wal):
        with contextlib.suppress(PowerCut, AgentWorldError):
            log.close()

"""Why a node ends: the one error, of all that its tasks ended with, that says it best."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from agentworld_core.errors import AgentWorldError

log = logging.getLogger(__name__)


class NodeFailed(AgentWorldError):
    """Something happened that this software does not know how to handle; the log has the details."""

    code = "node_failed"
    http_status = 500


def cause_of(group: BaseExceptionGroup[Exception], ledger_failure: AgentWorldError | None) -> AgentWorldError:
    """Returns the one error that says best why the node cannot go on; logs those that nobody foresaw."""
    errors = list(_leaves(group))
    for error in errors:
        if not isinstance(error, AgentWorldError):
            log.critical("the node failed", exc_info=error)
    typed = [error for error in errors if isinstance(error, AgentWorldError)]
    if ledger_failure is not None:
        return ledger_failure
    return typed[0] if typed else NodeFailed(f"{type(errors[0]).__name__}: {errors[0]}", remedy="see the log")


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error

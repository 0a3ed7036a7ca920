"""How many actions each client may submit: those beyond its rate are refused and told when to come again."""

from __future__ import annotations

import time
from collections.abc import Sequence

from agentworld_core.errors import AgentWorldError, RateLimited
from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.rate import RateLimit, RateLimiter
from agentworld_node.metrics import Metrics


class ClientRates:
    """Counts what the clients of one node submit, by their addresses; without a limit everything passes."""

    def __init__(self, limit: RateLimit | None, metrics: Metrics):
        self._limiter = None if limit is None else RateLimiter(limit)
        self._metrics = metrics

    def enter(self, client: str) -> None:
        """Counts a request for one action, before anything of it is read; RateLimited when the client may send none."""
        if self._limiter is not None and not self._limiter.take(client, now_ms=_now_ms()):
            raise self._refusal(self._limiter, client, 1)

    def admit(
        self, client: str, actions: Sequence[ActionEnvelope]
    ) -> tuple[Sequence[ActionEnvelope], list[AgentWorldError]]:
        """Returns the first actions of a request that has entered, as many as may pass, and an error for each other."""
        if self._limiter is None or len(actions) <= 1:
            return actions, []
        admitted = 1 + self._limiter.take(client, now_ms=_now_ms(), most=len(actions) - 1)
        return actions[:admitted], [
            self._refusal(self._limiter, client, n) for n in range(1, len(actions) - admitted + 1)
        ]

    def _refusal(self, limiter: RateLimiter, client: str, place: int) -> RateLimited:
        """Says when the action at this place among those that were refused may come again."""
        self._metrics.count("agentworld_actions_refused_total", code=RateLimited.code)
        wait_ms = max(1, limiter.wait_ms(client, now_ms=_now_ms(), count=place))
        limit = limiter.limit
        return RateLimited(
            f"this address may submit {limit.per_second} actions a second, and {limit.burst} at once",
            remedy=f"send it again after {wait_ms} ms",
            retry_after_ms=wait_ms,
        )


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000

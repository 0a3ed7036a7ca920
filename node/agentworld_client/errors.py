"""Errors that a client sees: those of the gateway, with their codes, and those of the way to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from agentworld_core.errors import AgentWorldError, NotAvailable
from agentworld_core.ledger.difference import Difference


class GatewayError(AgentWorldError):
    """The gateway answered with an error; ``code`` is the gateway's own."""

    def __init__(self, document: dict[str, Any], *, status: int):
        super().__init__(
            str(document.get("message", "the gateway refused the request")),
            field=document.get("field"),
            value=document.get("value"),
            remedy=document.get("remedy"),
            retry_after_ms=retry_after_ms(document),
        )
        self.code = str(document.get("code", "internal"))  # type: ignore[misc]  # of this one answer, not of the class
        self.status = status
        self._retryable = bool(document.get("retryable", False))

    @property
    def retryable(self) -> bool:
        """True when the gateway said that the same request may succeed later."""
        return self._retryable


def retry_after_ms(document: Mapping[str, Any]) -> int:
    """Returns when an error of a gateway says that the same may succeed, 0 where it says nothing that makes sense."""
    value = document.get("retry_after_ms")
    return value if type(value) is int and 0 < value < 2**63 else 0


class GatewayUnreachable(NotAvailable):
    """No answer came from the gateway; whether it took the request is not known."""

    code: ClassVar[str] = "gateway_unreachable"


class ActionNotTaken(AgentWorldError):
    """An action was refused, by the node or, once committed, by the rules of the world; ``code`` says why."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code  # type: ignore[misc]  # of this one action, not of the class


class VerificationFailed(AgentWorldError):
    """Something fetched is not what the keys and the replay say it must be; the height says where.

    ``place`` names the object and field that is wrong, such as ``block.state_root``; ``difference``, for a result that
    is not that of the execution, the first action that makes it so.
    """

    code: ClassVar[str] = "verification_failed"
    wire: ClassVar[str] = "ERR_STATE_MISMATCH"

    def __init__(
        self,
        message: str,
        *,
        height: int,
        cause_code: str = "",
        place: str | None = None,
        difference: Difference | None = None,
    ):
        super().__init__(message if difference is None else f"{message}; {difference}", field=f"height {height}")
        self.height = height
        self.cause_code = cause_code
        self.place = place
        self.difference = difference

    def as_dict(self) -> dict[str, object]:
        """Adds the height, the place, the code of the check that failed and the first difference."""
        found: dict[str, object] = {"height": self.height, "cause": self.cause_code}
        if self.place is not None:
            found["place"] = self.place
        if self.difference is not None:
            found["difference"] = self.difference.as_dict()
        return {**super().as_dict(), **found}

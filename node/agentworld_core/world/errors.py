"""The refusals of the world: an action that the kernel turns down, and a proof that proves nothing."""

from __future__ import annotations

from collections.abc import Sequence

from agentworld_core.codec import Value
from agentworld_core.errors import AgentWorldError, InvalidField


class FromTheFuture(InvalidField):
    """The time of an action lies further ahead than clocks may differ; it may be right later."""


class InvalidProof(AgentWorldError):
    """The nodes of a state proof do not lead from the root to a statement about the key."""

    code = "invalid_proof"
    wire = "ERR_INVALID_HASH"


class ActionRefused(AgentWorldError):
    """A well-formed action that the rules of the world refuse; ``reason_code`` is one of ``REFUSAL_CODES``.

    It is raised by action handlers and becomes an ``action.rejected`` event, or the events ``instead`` (kind, payload)
    when it has any; it never leaves the kernel.
    """

    code = "action_refused"
    http_status = 409

    def __init__(self, reason_code: str, message: str, *, instead: Sequence[tuple[str, dict[str, Value]]] = ()):
        super().__init__(message)
        if reason_code not in REFUSAL_CODES:
            raise ValueError(f"unknown refusal code {reason_code!r}")
        self.reason_code = reason_code
        self.instead = instead


REFUSAL_CODES = (
    "already_exists",
    "already_settled",
    "denied",
    "expired",
    "hash_mismatch",
    "insufficient_resources",
    "invalid_field",
    "invalid_signature",
    "invalid_state",
    "mailbox_full",
    "nonce_used",
    "not_found",
    "rule_failed",
    "shadow_failed",
    "stale_base",
    "too_large",
    "unauthorized",
    "unsupported",
    "wrong_world",
)
"""Why a committed action can fail: the ``code`` of its event and of its receipt."""

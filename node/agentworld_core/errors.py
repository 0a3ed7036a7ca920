"""Every refusal has a stable code, a sentence a person understands, and, where one is known, the way out.

The ``code`` reappears unchanged in HTTP errors, events, metrics and conditions. ``wire`` is the coarse code of the
request/response protocol (runtime spec section 2.6); whether a client may retry follows from it alone.
"""

from __future__ import annotations

from typing import ClassVar

RETRYABLE_WIRE_CODES = frozenset({"ERR_BUSY", "ERR_RATE_LIMITED", "ERR_TIMEOUT", "ERR_NOT_AVAILABLE"})
WIRE_CODES = RETRYABLE_WIRE_CODES | {
    "ERR_NOT_FOUND",
    "ERR_BAD_REQUEST",
    "ERR_INVALID_HASH",
    "ERR_STATE_MISMATCH",
    "ERR_UNSUPPORTED",
    "ERR_UNAUTHORIZED",
}


class AgentWorldError(Exception):
    """Base of all errors of ours: a message with the offending field, its value and what would be right.

    ``retry_after_ms`` says when the same request may succeed, where that is known; else it is 0.
    """

    code: ClassVar[str] = "internal"
    wire: ClassVar[str] = "ERR_BAD_REQUEST"
    http_status: ClassVar[int] = 400

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        remedy: str | None = None,
        retry_after_ms: int = 0,
    ):
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.remedy = remedy
        self.retry_after_ms = retry_after_ms

    @property
    def retryable(self) -> bool:
        """True when the same request may succeed later without a change."""
        return self.wire in RETRYABLE_WIRE_CODES

    def as_dict(self) -> dict[str, object]:
        """The JSON form used by HTTP errors and ``--output json``: code, message, retryable and what is known."""
        result: dict[str, object] = {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }
        if self.field is not None:
            result["field"] = self.field
        if self.value is not None:
            result["value"] = str(self.value)[:200]
        if self.remedy is not None:
            result["remedy"] = self.remedy
        if self.retry_after_ms:
            result["retry_after_ms"] = self.retry_after_ms
        return result

    def __str__(self) -> str:
        text = self.message
        if self.field is not None:
            text = f"{self.field}: {text}"
        if self.value is not None:
            text = f"{text} (got {str(self.value)[:200]!r})"
        return f"{text}; {self.remedy}" if self.remedy else text


class InvalidField(AgentWorldError):
    """A field holds a value that its rule does not allow."""

    code = "invalid_field"


class MalformedEncoding(AgentWorldError):
    """Bytes are not the one deterministic encoding of the expected message."""

    code = "malformed_encoding"


class TooLarge(AgentWorldError):
    """Something exceeds a stated limit and was refused before it cost anything."""

    code = "too_large"
    http_status = 413


class InvalidSignature(AgentWorldError):
    """A signature is missing, or does not verify under the named key."""

    code = "invalid_signature"
    wire = "ERR_UNAUTHORIZED"
    http_status = 401


class Unauthorized(AgentWorldError):
    """The signer is known but may not do this."""

    code = "unauthorized"
    wire = "ERR_UNAUTHORIZED"
    http_status = 403


class KeyRevoked(Unauthorized):
    """The key that signed has been revoked."""

    code = "key_revoked"


class HashMismatch(AgentWorldError):
    """Content does not hash to the id it was given under."""

    code = "hash_mismatch"
    wire = "ERR_INVALID_HASH"


class StateMismatch(AgentWorldError):
    """A block, head or directory contradicts what is already known to be true."""

    code = "state_mismatch"
    wire = "ERR_STATE_MISMATCH"
    http_status = 409


class WrongWorld(AgentWorldError):
    """The message belongs to another world."""

    code = "wrong_world"


class NotFound(AgentWorldError):
    """What was asked for does not exist here."""

    code = "not_found"
    wire = "ERR_NOT_FOUND"
    http_status = 404


class Unsupported(AgentWorldError):
    """The kind, method or version is not known to this node."""

    code = "unsupported"
    wire = "ERR_UNSUPPORTED"


class Busy(AgentWorldError):
    """A bounded queue is full; try again later."""

    code = "busy"
    wire = "ERR_BUSY"
    http_status = 503


class RateLimited(AgentWorldError):
    """The client submits more than its rate; send the same again when the error says."""

    code = "rate_limited"
    wire = "ERR_RATE_LIMITED"
    http_status = 429


class NotAvailable(AgentWorldError):
    """The peer or service cannot be reached now; try again later."""

    code = "not_available"
    wire = "ERR_NOT_AVAILABLE"
    http_status = 503


class TimedOut(AgentWorldError):
    """The deadline passed before an answer came; the outcome is not known."""

    code = "timed_out"
    wire = "ERR_TIMEOUT"
    http_status = 504


class Expired(TimedOut):
    """The action has waited here for longer than it may; submitted again it counts once."""

    code = "action_expired"


class NonceUsed(AgentWorldError):
    """The actor has already used this nonce for another action, or it is older than the window."""

    code = "nonce_used"
    http_status = 409


class ActorLimit(AgentWorldError):
    """The actor has as many actions waiting as one actor may have."""

    code = "actor_limit"
    wire = "ERR_RATE_LIMITED"
    http_status = 429

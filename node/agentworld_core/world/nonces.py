"""Which nonces an actor's key has used: enough to refuse every duplicate for ever, in bounded space.

A window knows the lowest nonce that may still be used and a bitmap of the used ones from there on. Using a nonce far
ahead moves the window, and what falls out of it counts as used. A client that counts up leaves an empty bitmap.
"""

from __future__ import annotations

import dataclasses

from agentworld_core.codec import Value
from agentworld_core.errors import MalformedEncoding

NONCE_WINDOW = 4096
MAX_NONCE = 2**63 - 1


def of_size(value: Value, size: int) -> Value:
    """Returns the value when it is a map of that many entries, else None; lets a pattern match a map exactly."""
    return value if isinstance(value, dict) and len(value) == size else None


def fields_of(value: Value, names: tuple[str, ...]) -> tuple[Value, ...]:
    """Returns the values of a map of exactly these names, or None for each; the quick way, for what is read often."""
    if type(value) is dict and len(value) == len(names):
        return tuple([value.get(name) for name in names])
    return (None,) * len(names)


@dataclasses.dataclass(frozen=True, slots=True)
class NonceWindow:
    """The used nonces of one actor and key: all below ``low``, and ``low + i`` for each bit i of ``used``."""

    low: int = 0
    used: int = 0

    def usable(self, nonce: int) -> bool:
        """True when the nonce has not been used and is not older than the window."""
        offset = nonce - self.low
        return offset >= 0 and not self.used >> offset & 1

    def use(self, nonce: int) -> NonceWindow:
        """Returns the window with a usable nonce marked as used."""
        low, used, offset = self.low, self.used, nonce - self.low
        if not offset and not used:
            return NonceWindow(low + 1)
        if offset < 0 or used >> offset & 1:
            raise ValueError(f"nonce {nonce} is used")
        if offset >= NONCE_WINDOW:
            moved = offset - NONCE_WINDOW + 1
            low, used, offset = low + moved, used >> moved, NONCE_WINDOW - 1
        used |= 1 << offset
        settled = (~used & (used + 1)).bit_length() - 1
        return NonceWindow(low + settled, used >> settled)

    @property
    def next_free(self) -> int:
        """The lowest nonce above all used ones: what a client that counts up takes next."""
        return self.low + self.used.bit_length()

    def to_value(self) -> Value:
        """Returns the form that is kept in the state."""
        return {"low": self.low, "used": self.used.to_bytes((self.used.bit_length() + 7) // 8, "little")}

    @classmethod
    def from_value(cls, value: Value) -> NonceWindow:
        """Returns the window from the form kept in the state."""
        low, used = fields_of(value, ("low", "used"))
        if type(low) is int and type(used) is bytes:
            return cls(low, int.from_bytes(used, "little"))
        raise MalformedEncoding("is not a nonce window", field="nonce")

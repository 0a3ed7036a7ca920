"""What the plans of membership ask their home to do next; a home is the operator or the supervisor of one machine."""

from __future__ import annotations

from dataclasses import dataclass

from agentworld_core.membership.builder import Changes


@dataclass(frozen=True)
class MakeKey:
    """Make the private key of this generation and store it under its own name."""

    generation: int


@dataclass(frozen=True)
class PublishDirectory:
    """Build the next epoch with these changes (``next_directory``), have it signed and submit it.

    A change of governance is signed by the old keys and the new.
    """

    changes: Changes
    reason: str


@dataclass(frozen=True)
class SwitchSigning:
    """Make this the key that is signed with, without a restart."""

    key_id: str


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes, or until the time; ``missing`` are those that are waited for."""

    reason: str
    missing: tuple[str, ...] = ()
    until_ms: int | None = None


@dataclass(frozen=True)
class Refused:
    """What is wished for will not be done; the message says how it could be, ``what`` what ``names`` may not do."""

    reason: str
    message: str
    names: tuple[str, ...] = ()
    what: str = "may not leave"


@dataclass(frozen=True)
class Done:
    """All is as it should be."""


Step = MakeKey | PublishDirectory | SwitchSigning | Wait | Refused | Done

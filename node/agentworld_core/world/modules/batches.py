"""Answers in advance: one call of a module for what is at hand and for what will probably be at hand after it.

A call is a function of its input, so it may be made before its turn. The input of each answer is known to the last
byte: what it is about, and the state of the module that it builds on. When the turn comes, the answer counts only if a
call of its own would be given the very same; otherwise it is thrown away. So what a step comes to does not depend on
guesses, and who guesses badly only pays for it: how many are asked for in advance follows what became of the last ones.

Everything here is a function of the state and of the actions of the block, so every node makes the same calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agentworld_core.world.modules.manifest import REDUCER, ModuleManifest
from agentworld_core.world.modules.output import Occasion

BATCH_BYTES = 1024 * 1024
"""The most bytes of documents that one call is given, and of outputs that it is expected to answer with."""

_MARGIN = 2  # what follows may need that much more fuel and room than what was just measured
_HEADER_BYTES = 5  # the longest length of a byte string, documents and outputs being smaller than 4 GiB


class Window:
    """What is known in advance for one module at one stage of a step, and how far it pays to look ahead.

    All the answers of a batch are used: the next one may be twice as long. One that did not fit: the next one is as
    long as the part that was used, so at most about half of what is asked for in advance can be in vain. A call for a
    batch that fails ends them for this step, because what makes it fail is likely to be asked again.
    """

    __slots__ = (
        "_answers", "_asked", "_at", "_failed", "_fuel", "_module", "_occasions", "_output", "_size", "_state", "_used",
    )  # fmt: skip

    def __init__(self, module: ModuleManifest):
        self._module = module
        self._size = module.limits.max_batch
        self._failed = False
        self._fuel = self._output = 0
        self._occasions: Sequence[Occasion] = ()
        self._answers: Sequence[bytes] = ()
        self._asked = self._at = self._used = 0
        self._state: bytes | None = None

    def answer(self, occasion: Occasion, state: bytes) -> bytes | None:
        """Returns the output for this occasion in this state, when it is known; what cannot count any more is dropped.

        The state after it must be told by ``advance``, or the next answers of a reducer do not count.
        """
        if self._at == len(self._answers):
            return None
        at = self._find(occasion, state)
        if at is None:
            self._close()
            return None
        return self._take(at)

    def advance(self, state: bytes) -> None:
        """Says on which state the module itself went on after the answer that was taken last."""
        self._state = state

    def plan(self, occasion: Occasion, ahead: Iterable[Occasion]) -> list[Occasion]:
        """Returns what to ask for in one call: the occasion, and what may follow it; one alone means a call of its own.

        The first call of a step is always one of its own, since it shows what calls cost.
        """
        planned = [occasion]
        if self._failed or self._size < 2 or not self._fuel:
            return planned
        limits = self._module.limits
        room = min(BATCH_BYTES, limits.max_mem_bytes // 4)
        most = min(self._size, limits.max_gas // (_MARGIN * self._fuel), room // (_MARGIN * self._output))
        room -= len(occasion.document.encoded) + _HEADER_BYTES
        for follower in ahead:
            if len(planned) >= most:
                break
            room -= len(follower.document.encoded) + _HEADER_BYTES
            if room < 0:
                break
            planned.append(follower)
        return planned

    def called(self, *, fuel: int, output_bytes: int) -> None:
        """Takes note of what a call of its own has cost."""
        self._measured(1, fuel, output_bytes)
        if self._size == 1:
            self._size = min(2, self._module.limits.max_batch)

    def open(self, occasions: Sequence[Occasion], answers: Sequence[bytes], *, fuel: int, state: bytes) -> bytes:
        """Takes in the answers to the first of these occasions, and returns that to the very first.

        That one builds on ``state``, and each of a reducer on the one before it.
        """
        self._occasions, self._answers = occasions, answers
        self._asked, self._at, self._used, self._state = len(occasions), 0, 0, state
        self._measured(len(answers), fuel, sum(map(len, answers)))
        return self._take(0)

    def fail(self) -> None:
        """Ends batches for this step."""
        self._failed = True

    def _find(self, occasion: Occasion, state: bytes) -> int | None:
        """Returns where the answer is; one of a reducer can only be the next one, for each builds on that before it."""
        if self._module.kind == REDUCER:
            fits = self._state == state and _same(self._occasions[self._at], occasion)
            return self._at if fits else None
        return next((at for at in range(self._at, len(self._answers)) if _same(self._occasions[at], occasion)), None)

    def _take(self, at: int) -> bytes:
        found = self._answers[at]
        self._at = at + 1
        self._used += 1
        self._state = None
        if self._at == len(self._answers):
            self._close()
        return found

    def _close(self) -> None:
        if self._used < self._asked:
            self._size = max(1, self._used)
        else:
            self._size = min(2 * self._size, self._module.limits.max_batch)
        self._occasions = self._answers = ()
        self._at = 0

    def _measured(self, calls: int, fuel: int, output_bytes: int) -> None:
        self._fuel = max(1, -(-fuel // calls))
        self._output = max(1, -(-output_bytes // calls))


def _same(one: Occasion, other: Occasion) -> bool:
    """True when a call is given the same for both: they are of one stage, and the document says the rest."""
    return one.kind == other.kind and one.document.encoded == other.document.encoded

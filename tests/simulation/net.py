"""A network that loses, repeats, delays and reorders, and falls apart into groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.simulation.kernel import Kernel

Frame = tuple[str, bytes]


@dataclass
class Weather:
    """What the network does to a message now."""

    loss: float = 0.0
    repeat: float = 0.0
    slow: float = 0.0
    latency: tuple[int, int] = (1, 30)
    slowest: int = 3000


class Net:
    """Delivers frames between named ends; a frame is a kind and bytes, so that encoding is always exercised."""

    def __init__(self, kernel: Kernel, weather: Weather):
        self._kernel = kernel
        self._rng = kernel.rng("net")
        self.weather = weather
        self._ends: dict[str, Callable[[str, Frame], None]] = {}
        self._groups: dict[str, int] = {}

    def attach(self, end: str, deliver: Callable[[str, Frame], None]) -> None:
        """Adds an end; ``deliver`` is called with the sender and the frame."""
        self._ends[end] = deliver

    @property
    def ends(self) -> list[str]:
        """All ends, in the order in which they were added."""
        return list(self._ends)

    def split(self, groups: Sequence[Sequence[str]]) -> None:
        """Lets only the ends of one group reach each other; those in none are alone."""
        self._groups = {end: number for number, group in enumerate(groups) for end in group}
        self._kernel.note(f"net splits into {[sorted(group) for group in groups]}")

    def join(self) -> None:
        """Lets everybody reach everybody."""
        self._groups = {}

    def broadcast(self, source: str, frame: Frame) -> None:
        """Sends a frame to all other ends."""
        for end in self._ends:
            if end != source:
                self.send(source, end, frame)

    def send(self, source: str, target: str, frame: Frame) -> None:
        """Sends a frame to one end."""
        if self._groups and self._groups.get(source, -1) != self._groups.get(target, -2):
            return
        weather = self.weather
        if self._rng.random() < weather.loss:
            return
        copies = 2 if self._rng.random() < weather.repeat else 1
        for _ in range(copies):
            low, high = (high_slow(weather)) if self._rng.random() < weather.slow else weather.latency
            self._kernel.after(self._rng.randint(low, high), lambda: self._ends[target](source, frame))


def high_slow(weather: Weather) -> tuple[int, int]:
    """The latency of a message that takes the long way."""
    return weather.latency[1], weather.slowest

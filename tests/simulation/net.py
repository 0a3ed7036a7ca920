"""A network that loses, repeats, garbles, delays and reorders, and falls apart in every shape."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

from tests.simulation.history import Frame, Leg, Sent
from tests.simulation.kernel import Kernel
from tests.simulation.scenario import Weather

SLOWEST_LINK_MS = 150
Deliver = Callable[[str, Frame], str]


class Net:
    """Delivers frames between named ends; a frame is a kind and bytes, so that encoding is always exercised."""

    def __init__(self, kernel: Kernel, weather: Weather):
        self._kernel = kernel
        self._rng = kernel.rng("net")
        self._draw = self._rng.random
        self._ends: dict[str, Deliver] = {}
        self._others: dict[str, list[str]] = {}
        self._cut: set[tuple[str, str]] = set()
        self._clogged: dict[str, int] = {}
        self._extra: dict[tuple[str, str], int] = {}
        self.set_weather(weather)

    def attach(self, end: str, deliver: Deliver) -> None:
        """Adds an end; ``deliver`` is called with the sender and the frame and says what became of it, if anything."""
        for other in self._ends if self._weather.uneven else ():
            self._extra[other, end] = self._rng.randrange(SLOWEST_LINK_MS)
            self._extra[end, other] = self._rng.randrange(SLOWEST_LINK_MS)
        self._ends[end] = deliver
        self._others = {one: [other for other in self._ends if other != one] for one in self._ends}

    @property
    def ends(self) -> list[str]:
        """All ends, in the order in which they were added."""
        return list(self._ends)

    def set_weather(self, weather: Weather) -> None:
        """Changes what happens to messages from now on."""
        self._weather = weather
        self._lost = weather.loss
        self._repeated = self._lost + weather.repeat
        self._garbled = self._repeated + weather.garble

    def split(self, groups: Sequence[Sequence[str]]) -> None:
        """Lets only the ends of one group reach each other; an end may be in several, one in none is alone."""
        together = {(one, other) for group in groups for one in group for other in group}
        self.cut(
            ((one, other) for one in self._ends for other in self._others[one] if (one, other) not in together),
            says=" | ".join(" ".join(sorted(group)) for group in groups),
        )

    def cut(self, links: Iterable[tuple[str, str]], *, says: str) -> None:
        """Lets nothing pass in these directions, and everything in all others."""
        self._cut = set(links)
        self._kernel.note("net", "cut", says)

    def clog(self, end: str, until: int) -> None:
        """Holds up what arrives at the end until then."""
        self._clogged[end] = until
        self._kernel.note("net", "clog", f"what is for {end} waits until {until}")

    def join(self) -> None:
        """Lets everybody reach everybody."""
        if self._cut or self._clogged:
            self._cut = set()
            self._clogged = {}
            self._kernel.note("net", "joins", "")

    def broadcast(self, source: str, frame: Frame) -> None:
        """Sends a frame to all other ends."""
        kernel = self._kernel
        sent = kernel.history.send(kernel.now, source, frame) if kernel.history.full else None
        for end in self._others[source]:
            self._leave(source, end, frame, sent)

    def send(self, source: str, target: str, frame: Frame) -> None:
        """Sends a frame to one end."""
        kernel = self._kernel
        self._leave(
            source, target, frame, kernel.history.send(kernel.now, source, frame) if kernel.history.full else None
        )

    def _leave(self, source: str, target: str, frame: Frame, sent: Sent | None) -> None:
        if self._cut and (source, target) in self._cut:
            if sent is not None:
                sent.legs.append(Leg(target, None, "cut off"))
            return
        fate = self._draw()
        if fate < self._lost:
            if sent is not None:
                sent.legs.append(Leg(target, None, "lost"))
            return
        copies = 1
        if fate < self._repeated:
            copies = 2
        elif fate < self._garbled:
            frame = (frame[0], self._garble(frame[1]))
        weather = self._weather
        for _ in range(copies):
            low, high = weather.latency
            if weather.slow and self._draw() < weather.slow:
                low, high = high, weather.slowest
            delay = low + int(self._draw() * (high - low + 1))
            if self._extra:
                delay += self._extra.get((source, target), 0)
            if self._clogged:
                delay = max(delay, self._clogged.get(target, 0) - self._kernel.now)
            leg = None
            if sent is not None:
                leg = Leg(target, self._kernel.now + delay)
                sent.legs.append(leg)
            self._kernel.after(delay, functools.partial(self._arrive, source, target, frame, leg))

    def _arrive(self, source: str, target: str, frame: Frame, leg: Leg | None) -> None:
        fate = self._ends[target](source, frame)
        if leg is not None and fate:
            leg.fate = fate

    def _garble(self, data: bytes) -> bytes:
        place = self._rng.randrange(len(data) + 1)
        if self._draw() < 0.3:
            return data[:place]
        return data[:place] + bytes([self._rng.randrange(256)]) + data[place + 1 :]

"""A space-time picture of a run (SVG): a lane for each node, time to the right, messages as lines between lanes.

Colours are by height. Hovering over anything shows its line of the history.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from tests.simulation.history import Leg, Mark, Sent

if TYPE_CHECKING:
    from tests.simulation.runner import Run

SHOWN_MS = 20_000
PIXELS_PER_MS = 0.22
LANE = 84
LEFT, RIGHT, TOP, BOTTOM = 96, 60, 150, 70
DRAWN = {"vote": (0.8, 0.35), "proposal": (2.2, 0.8), "blocks": (1.6, 0.6), "directory": (1.2, 0.5)}
"""The messages that are drawn, with the width and the opacity of their lines."""
GROUPS = ("#4477aa", "#cc6677", "#ddaa33", "#228833", "#aa3377")
STYLE = """
text { font: 12px sans-serif; fill: #222 } .small { font-size: 10px } .lane { stroke: #999; stroke-width: 1 }
.down { fill: #444 } .paused { fill: #e69f00 } .slow { fill: #b5651d } .cut { fill: #fbe5e5 } .grid { stroke: #eee }
.lost { stroke: #c00; stroke-dasharray: 2 3 } .bad { stroke: #c00; stroke-width: 3 } .title { font-size: 14px }
"""


def draw_picture(run: Run) -> str:
    """Returns the picture of a run with a full history: its last ``SHOWN_MS``."""
    return _Picture(run).svg()


class _Picture:
    def __init__(self, run: Run):
        self.run = run
        kernel = run.world.kernel
        self.items = list(kernel.history.items)
        self.end = max(kernel.now, 1)
        self.begin = max(0, self.end - SHOWN_MS)
        self.lanes = {lane: number for number, lane in enumerate([*run.world.net.ends, "lease", "world"])}
        self.width = LEFT + RIGHT + (self.end - self.begin) * PIXELS_PER_MS
        self.height = TOP + BOTTOM + (len(self.lanes) - 1) * LANE

    def x(self, at: int) -> float:
        return round(LEFT + (min(max(at, self.begin), self.end) - self.begin) * PIXELS_PER_MS, 1)

    def y(self, lane: str) -> float:
        return TOP + self.lanes[lane] * LANE

    def svg(self) -> str:
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" height="{self.height}">',
            f'<style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>',
            *self._partitions(),
            *self._frame(),
            *self._messages(),
            *self._spans(),
            *self._marks(),
            *self._legend(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    # Background

    def _frame(self) -> Iterator[str]:
        for at in range(-(-self.begin // 1000) * 1000, self.end + 1, 1000):
            x = self.x(at)
            yield f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 24}" y2="{self.height - BOTTOM + 20}"/>'
            yield f'<text class="small" x="{x}" y="{TOP - 30}" text-anchor="middle">{at / 1000:g} s</text>'
        right = self.x(self.end)
        for lane in self.lanes:
            y = self.y(lane)
            yield f'<line class="lane" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            yield f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(lane)}</text>'

    def _partitions(self) -> Iterator[str]:
        """A pink band while something is cut, and lanes in the colour of their group."""
        since: Mark | None = None
        for item in [*self._of("net", "cut", "joins"), Mark(self.end, "net", "joins", "")]:
            if since is not None and item.at > self.begin:
                x, width = self.x(since.at), self.x(item.at) - self.x(since.at)
                band = f'x="{x}" y="{TOP - 20}" width="{width:.1f}" height="{self.height - TOP - BOTTOM + 40}"'
                yield f'<rect class="cut" {band}>{_hint(since)}</rect>'
                groups = [group.split() for group in since.text.split("|")] if "|" in since.text else []
                for number, group in enumerate(groups):
                    for lane in group:
                        place = f'x="{x}" y="{self.y(lane) + 7}" width="{width:.1f}" height="4"'
                        yield f'<rect {place} fill="{GROUPS[number % len(GROUPS)]}">{_hint(since)}</rect>'
            since = item if item.kind == "cut" else None

    # What happens

    def _messages(self) -> Iterator[str]:
        for item in self.items:
            if isinstance(item, Sent) and item.kind in DRAWN and item.lane in self.lanes:
                for leg in item.legs:
                    yield from self._leg(item, leg)

    def _leg(self, sent: Sent, leg: Leg) -> Iterator[str]:
        x, y, target = self.x(sent.at), self.y(sent.lane), self.y(leg.target)
        if leg.arrives_at is None:
            if leg.fate != "cut off" and sent.at >= self.begin:
                stub = 22 if target > y else -22
                yield f'<line class="lost" x1="{x}" y1="{y}" x2="{x + 5}" y2="{y + stub}" opacity="0.5"/>'
            return
        if leg.arrives_at < self.begin:
            return
        width, opacity = DRAWN[sent.kind]
        colour = "#888" if leg.fate else _colour(sent.height)
        line = f'x1="{x}" y1="{y}" x2="{self.x(leg.arrives_at)}" y2="{target}"'
        yield f'<line {line} stroke="{colour}" stroke-width="{width}" opacity="{opacity}">{_hint(sent)}</line>'

    def _spans(self) -> Iterator[str]:
        """Thick pieces of a lane: down, paused, slow."""
        down: dict[str, int] = {}
        for item in self._of(None, "crashes", "boots", "pauses", "disk slow"):
            if item.kind == "crashes":
                down[item.lane] = item.at
            elif item.kind == "boots" and item.lane in down:
                yield self._span(item.lane, down.pop(item.lane), item.at, "down")
            elif item.kind in ("pauses", "disk slow"):
                until = int(item.text.removeprefix("until "))
                yield self._span(item.lane, item.at, until, "paused" if item.kind == "pauses" else "slow")
        for lane, since in down.items():
            yield self._span(lane, since, self.end, "down")

    def _span(self, lane: str, since: int, until: int, kind: str) -> str:
        height = {"down": 12, "paused": 8, "slow": 4}[kind]
        width = self.x(until) - self.x(since)
        place = f'x="{self.x(since)}" y="{self.y(lane) - height / 2}" width="{width:.1f}" height="{height}"'
        return f'<rect class="{kind}" {place}><title>{lane} is {kind} from {since} to {until}</title></rect>'

    def _marks(self) -> Iterator[str]:
        for item in self.items:
            if not isinstance(item, Mark) or item.at < self.begin or item.lane not in self.lanes:
                continue
            x, y = self.x(item.at), self.y(item.lane)
            match item.kind:
                case "commits":
                    place = f'cx="{x}" cy="{y}" r="9" fill="{_colour(item.height)}" stroke="#333"'
                    yield f"<circle {place}>{_hint(item)}</circle>"
                    yield f'<text class="small" x="{x}" y="{y + 3.5}" text-anchor="middle">{item.height}</text>'
                case "crashes":
                    cross = f"M{x - 7},{y - 7}l14,14m0,-14l-14,14"
                    yield f'<path class="bad" d="{cross}">{_hint(item)}</path>'
                case "enters":
                    place = f'x1="{x}" x2="{x}" y1="{y - 8}" y2="{y + 8}" stroke="{_colour(item.height)}"'
                    yield f'<line {place} stroke-width="2">{_hint(item)}</line>'
                case "VIOLATION":
                    yield f'<line class="bad" x1="{x}" x2="{x}" y1="{TOP - 20}" y2="{y + 30}">{_hint(item)}</line>'
                case "scenario" | "boots" | "pauses" | "disk slow":
                    continue
                case _:
                    text = f"{item.kind} {item.text}" if item.lane in ("lease", "world") else item.kind
                    yield f'<circle cx="{x}" cy="{y}" r="3" fill="#222">{_hint(item)}</circle>'
                    turn = f'transform="rotate(-28 {x} {y - 8})"'
                    yield f'<text class="small" x="{x}" y="{y - 8}" {turn}>{escape(text[:40])}{_hint(item)}</text>'

    def _legend(self) -> Iterator[str]:
        seed, violation = self.run.world.kernel.seed, self.run.violation
        title = f"seed {seed}: {violation if violation is not None else 'no violation'}"
        yield f'<text class="title" x="12" y="22">{escape(title)}</text>'
        says = (
            "circle: commit of a height · tick: enters a round · thick line: proposal or blocks · thin line: vote · "
            "grey line: refused, or nobody there · red dots: lost · red cross and black bar: crash · "
            "orange bar: paused · brown bar: slow disk · pink: something is cut, lanes in the colour of their group"
        )
        yield f'<text class="small" x="12" y="40">{says}</text>'
        for number, line in enumerate(self.run.world.scenario.describe()):
            yield f'<text class="small" x="12" y="{56 + 13 * number}">{escape(line)}</text>'

    def _of(self, lane: str | None, *kinds: str) -> list[Mark]:
        marks = [item for item in self.items if isinstance(item, Mark) and item.kind in kinds]
        return [item for item in marks if lane is None or item.lane == lane]


def _colour(height: int) -> str:
    return f"hsl({height * 67 % 360}, 70%, 45%)" if height else "#666"


def _hint(item: Mark | Sent) -> str:
    return f"<title>{escape(f'{item.at} {item.lane} {item.kind} {item.text}')}</title>"

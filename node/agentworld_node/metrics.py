"""Counters and gauges of one node in the Prometheus text format; names and help texts stand in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_HELP: dict[str, tuple[str, str]] = {
    "agentworld_head_height": ("gauge", "Height of the newest committed block of this node"),
    "agentworld_head_time_seconds": ("gauge", "Time stated by the newest committed block, seconds since the epoch"),
    "agentworld_directory_epoch": ("gauge", "Directory epoch in force at the next height"),
    "agentworld_revoked_keys": ("gauge", "Keys that this node knows to be revoked"),
    "agentworld_mempool_actions": ("gauge", "Actions waiting to be ordered"),
    "agentworld_peers_connected": ("gauge", "Peers with an open connection"),
    "agentworld_writer": ("gauge", "1 while this node holds the writer lease"),
    "agentworld_lease_term": ("gauge", "Highest lease term seen"),
    "agentworld_actions_committed_total": ("counter", "Actions in blocks that this node committed since its start"),
    "agentworld_blocks_committed_total": ("counter", "Blocks that this node committed since its start"),
    "agentworld_actions_refused_total": ("counter", "Submitted actions refused, by code"),
    "agentworld_actions_expired_total": ("counter", "Actions that were dropped because they had waited for too long"),
    "agentworld_messages_refused_total": ("counter", "Network messages refused, by topic and code"),
    "agentworld_http_malformed_total": ("counter", "Requests that were no HTTP, dropped with their connection"),
    "agentworld_votes_signed_total": ("counter", "Votes that this node signed since its start"),
    "agentworld_own_votes_heard_total": ("counter", "Votes under the own key that are not stored here: the disk lied"),
    "agentworld_parts_total": ("counter", "Parts of large proposals: fetched, refused or wrong at others, and served"),
    "agentworld_evidence_total": ("counter", "Equivocations seen since the start"),
    "agentworld_evidence": ("gauge", "Proofs held that a validator voted twice"),
    "agentworld_network_total": ("counter", "Counters of the network adapter, by name"),
    "agentworld_network_height": ("gauge", "Highest height that this node knows to be decided"),
    "agentworld_stalled": ("gauge", "1 while there is work and has been no commit for 10 s, or the node cannot go on"),
    "agentworld_storage_full": ("gauge", "1 while the data folder has no room"),
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Holds the counters of a node; gauges are asked for when the page is read."""

    def __init__(self) -> None:
        self._counters: dict[str, dict[Labels, int]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._tables: dict[str, tuple[str, Callable[[], Mapping[str, int]]]] = {}

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Adds to a counter that the table knows."""
        series = self._counters.setdefault(_known(name), {})
        key = tuple(sorted(labels.items()))
        series[key] = series.get(key, 0) + amount

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        """Registers where a gauge's value is read from."""
        self._gauges[_known(name)] = read

    def table(self, name: str, label: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Registers a mapping of counters that somebody else keeps, one series a key."""
        self._tables[_known(name)] = (label, read)

    def total(self, name: str) -> int:
        """Returns the sum of a counter over its labels."""
        return sum(self._counters.get(name, {}).values())

    def page(self) -> str:
        """Returns all series as Prometheus text, in the order of the table."""
        lines: list[str] = []
        for name, (kind, text) in _HELP.items():
            series: list[tuple[Labels, float]] = list(self._counters.get(name, {}).items())
            if name in self._gauges:
                series.append(((), self._gauges[name]()))
            if name in self._tables:
                label, read = self._tables[name]
                series += [(((label, key),), value) for key, value in sorted(read().items())]
            if not series:
                continue
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {value}" for labels, value in series]
        return "\n".join(lines) + "\n"


def _known(name: str) -> str:
    if name not in _HELP:
        raise ValueError(f"{name} has no help text")
    return name


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inner = ",".join(f'{key}="{_escape(value)}"' for key, value in labels)
    return f"{{{inner}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

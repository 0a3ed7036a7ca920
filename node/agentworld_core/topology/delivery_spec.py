"""The parts of a World's spec about revocations, alerts, their delivery and the replay of dead letters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agentworld_core.topology.fields import Fields

_DAY = 86_400_000
SINKS = ("log", "event", "webhook", "alertmanager")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkSpec:
    """Where alerts go: a kind of sink with its settings."""

    kind: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlertsSpec:
    """From which counts on a reconcile raises an alert, and how long the same one stays silent."""

    warn_diverged: int = 1
    critical_rejected: int = 1
    suppress_window_ms: int = 60_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeliverySpec:
    """The bounds, retries and sinks of the alert queue."""

    max_pending: int = 256
    max_attempts: int = 5
    backoff_ms: int = 5_000
    max_backoff_ms: int = 300_000
    sinks: tuple[SinkSpec, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevocationSpec:
    """How often revocations are checked and compared, and what is done about differences."""

    checkpoint_interval_ms: int = 30_000
    reconcile_interval_ms: int = 60_000
    auto_revoke_missing_keys: bool = True
    alerts: AlertsSpec = AlertsSpec()
    delivery: DeliverySpec = DeliverySpec()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplaySpec:
    """When and how many dead letters are tried again."""

    interval_ms: int = 60_000
    max_per_run: int = 64
    max_retry_limit_exceeded_streak: int = 3
    suspend: bool = False


def parse_revocation(fields: Fields) -> RevocationSpec:
    """Reads ``spec.revocation``."""
    alerts = fields.section("alerts")
    spec = RevocationSpec(
        checkpoint_interval_ms=fields.duration("checkpointInterval", 30_000, minimum_ms=1_000, maximum_ms=_DAY),
        reconcile_interval_ms=fields.duration("reconcileInterval", 60_000, minimum_ms=1_000, maximum_ms=_DAY),
        auto_revoke_missing_keys=fields.boolean("autoRevokeMissingKeys", True),
        alerts=AlertsSpec(
            warn_diverged=alerts.integer("warnDiverged", 1, minimum=1, maximum=256),
            critical_rejected=alerts.integer("criticalRejected", 1, minimum=1, maximum=4096),
            suppress_window_ms=alerts.duration("suppressWindow", 60_000, minimum_ms=0, maximum_ms=_DAY),
        ),
        delivery=_delivery(fields.section("delivery")),
    )
    alerts.finish()
    fields.finish()
    return spec


def parse_replay(fields: Fields) -> ReplaySpec:
    """Reads ``spec.replay``."""
    spec = ReplaySpec(
        interval_ms=fields.duration("interval", 60_000, minimum_ms=1_000, maximum_ms=_DAY),
        max_per_run=fields.integer("maxPerRun", 64, minimum=1, maximum=65_536),
        max_retry_limit_exceeded_streak=fields.integer("maxRetryLimitExceededStreak", 3, minimum=1, maximum=1_000),
        suspend=fields.boolean("suspend"),
    )
    fields.finish()
    return spec


def _delivery(fields: Fields) -> DeliverySpec:
    spec = DeliverySpec(
        max_pending=fields.integer("maxPending", 256, minimum=1, maximum=65_536),
        max_attempts=fields.integer("maxAttempts", 5, minimum=1, maximum=100),
        backoff_ms=fields.duration("backoff", 5_000, minimum_ms=100, maximum_ms=3_600_000),
        max_backoff_ms=fields.duration("maxBackoff", 300_000, minimum_ms=100, maximum_ms=_DAY),
        sinks=tuple(_sink(item) for item in fields.sections("sinks", limit=16)),
    )
    if spec.max_backoff_ms < spec.backoff_ms:
        fields.violate(
            "maxBackoff",
            "must not be shorter than backoff",
            value=fields.raw("maxBackoff"),
            remedy="raise maxBackoff or lower backoff; the defaults are 5m and 5s",
        )
    fields.finish()
    return spec


def _sink(fields: Fields) -> SinkSpec:
    given = [kind for kind in SINKS if fields.has(kind)]
    settings = {kind: fields.section(kind) for kind in SINKS}
    if len(given) != 1:
        fields.violate(
            "", "must name one sink", value=", ".join(given) or None, remedy=f"use one of {', '.join(SINKS)}"
        )
        return SinkSpec(kind="log")
    kind = given[0]
    if kind in ("webhook", "alertmanager"):
        url = settings[kind].text("url", required=True, limit=2048)
        if url and not url.startswith(("http://", "https://")):
            settings[kind].violate("url", "is not a URL", value=url, remedy="begin with http:// or https://")
        parsed: dict[str, Any] = {"url": url, "secretRef": settings[kind].mapping("secretRef")}
    else:
        parsed = {}
    settings[kind].finish()
    fields.finish()
    return SinkSpec(kind=kind, settings=parsed)

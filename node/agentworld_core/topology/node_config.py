"""The one file a node starts from: who it is, where its folders are, whom it talks to and how the writer is chosen.

The operator writes it into a ConfigMap, ``agentworld up`` into the node's folder; both from the same topology plan.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from agentworld_core.errors import InvalidField
from agentworld_core.ids import check_id
from agentworld_core.ordering.rate import RateLimit

ROLES = ("validator", "sequencer", "storage", "gateway", "observer")
LEASE_KINDS = ("none", "file", "kubernetes")
MAX_WORKERS = 64
MAX_RATE = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeaseConfig:
    """How the writer is chosen: by a Kubernetes Lease, by a file on one machine, or by rotation (``none``)."""

    kind: str = "none"
    path: str = ""
    namespace: str = ""
    name: str = ""
    heartbeat_name: str = ""
    duration_ms: int = 15_000
    renew_deadline_ms: int = 10_000
    retry_period_ms: int = 2_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """Settings of one node; paths are absolute, ports 0 mean "any free port", times are milliseconds.

    ``max_blob_bytes`` 0 means no limit, as does ``mempool_max_per_source`` 0, which is half of ``mempool_max_actions``
    where a document does not say it. With ``mempool_expiry_ms`` 0 nothing expires. ``verification_workers`` 0 means one
    for each core, up to eight. ``rate_limit_per_second`` is that of the actions of each client address, 0 for no limit;
    ``rate_limit_burst`` 0 means as many at once as in a second.
    """

    world_id: str
    node_id: str
    roles: tuple[str, ...] = ("validator", "sequencer", "storage", "gateway")
    data_folder: str = ""
    key_folder: str = ""
    identity_file: str = ""
    genesis_file: str = ""
    peers_file: str = ""
    p2p_host: str = "127.0.0.1"
    p2p_port: int = 0
    announce: tuple[str, ...] = ()
    http_host: str = "127.0.0.1"
    http_port: int = 0
    lease: LeaseConfig = LeaseConfig()
    mempool_max_actions: int = 10_000
    mempool_max_per_actor: int = 256
    mempool_max_per_source: int = 5_000
    mempool_expiry_ms: int = 600_000
    verification_workers: int = 0
    retain_snapshots: int = 10
    max_blob_bytes: int = 0
    rate_limit_per_second: int = 0
    rate_limit_burst: int = 0

    @property
    def rate_limit(self) -> RateLimit | None:
        """How many actions a client may submit; None for no limit."""
        rate = self.rate_limit_per_second
        return RateLimit(per_second=rate, burst=self.rate_limit_burst or rate) if rate else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; ``from_dict`` reads it back."""
        plain = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> NodeConfig:
        """Returns the config, or raises InvalidField that names the field that is unknown, missing or wrong."""
        fields = dict(_checked(NodeConfig, data, ""))
        if "lease" in fields:
            fields["lease"] = LeaseConfig(**_checked(LeaseConfig, fields["lease"], "lease."))
        for required in ("world_id", "node_id"):
            if required not in fields:
                raise InvalidField("is required", field=required)
        if "mempool_max_actions" in fields:
            fields.setdefault("mempool_max_per_source", half_of(fields["mempool_max_actions"]))
        config = NodeConfig(**fields)
        _check_rules(config)
        return config


def half_of(max_actions: int) -> int:
    """Returns how many actions one source may have waiting where nobody has said it; at least one."""
    return max(1, max_actions // 2)


def _checked(cls: type[Any], data: object, prefix: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise InvalidField("must be a mapping", field=prefix.rstrip(".") or "config", value=data)
    hints = typing.get_type_hints(cls)
    result: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise InvalidField("is not a setting", field=f"{prefix}{key}", remedy=f"use one of {', '.join(hints)}")
        hint = hints[key]
        if typing.get_origin(hint) is tuple:
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise InvalidField("must be a list of text", field=f"{prefix}{key}", value=value)
            result[key] = tuple(value)
            continue
        if hint in (int, str) and type(value) is not hint:
            raise InvalidField(f"must be {hint.__name__}", field=f"{prefix}{key}", value=value)
        result[key] = value
    return result


def _check_rules(config: NodeConfig) -> None:
    check_id(config.world_id, field="world_id")
    check_id(config.node_id, field="node_id")
    for role in config.roles:
        if role not in ROLES:
            raise InvalidField("is not a role", field="roles", value=role, remedy=f"use {', '.join(ROLES)}")
    for field in ("data_folder", "genesis_file", "identity_file"):
        if not getattr(config, field):
            raise InvalidField("is required", field=field)
    if "validator" in config.roles and not config.key_folder:
        raise InvalidField("is required for the role validator", field="key_folder")
    lease = config.lease
    if lease.kind not in LEASE_KINDS:
        raise InvalidField(
            "is not a kind of lease", field="lease.kind", value=lease.kind, remedy="use none, file, kubernetes"
        )
    if lease.kind == "file" and not lease.path:
        raise InvalidField("is required for a file lease", field="lease.path")
    if lease.kind == "kubernetes" and not (lease.namespace and lease.name):
        raise InvalidField("namespace and name are required for a Kubernetes lease", field="lease")
    if not lease.duration_ms > lease.renew_deadline_ms or lease.renew_deadline_ms * 10 <= lease.retry_period_ms * 12:
        raise InvalidField(
            "must be in order: duration > renew deadline > 1.2 x retry period",
            field="lease",
            value=f"{lease.duration_ms}/{lease.renew_deadline_ms}/{lease.retry_period_ms} ms",
        )
    for field in ("p2p_port", "http_port"):
        if not 0 <= getattr(config, field) <= 65535:
            raise InvalidField("is not a port", field=field, value=getattr(config, field))
    _check_bounds(config)


def _check_bounds(config: NodeConfig) -> None:
    for field in ("mempool_max_per_source", "mempool_expiry_ms"):
        if getattr(config, field) < 0:
            raise InvalidField("must not be negative", field=field, value=getattr(config, field))
    if not 0 <= config.verification_workers <= MAX_WORKERS:
        raise InvalidField(
            f"must be 0 to {MAX_WORKERS}", field="verification_workers", value=config.verification_workers
        )
    for field in ("rate_limit_per_second", "rate_limit_burst"):
        if not 0 <= getattr(config, field) <= MAX_RATE:
            raise InvalidField(f"must be 0 to {MAX_RATE}", field=field, value=getattr(config, field))
    if config.rate_limit_burst and not config.rate_limit_per_second:
        raise InvalidField("is required with rate_limit_burst", field="rate_limit_per_second", value=0)

"""What the operator is told by its environment; nothing else reads environment variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from agentworld_core.errors import InvalidField
from agentworld_core.ids import is_id

LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The operator's settings; no namespaces means all of them."""

    namespaces: tuple[str, ...] = ()
    own_namespace: str = "default"
    node_image: str = "agent-world/node:latest"
    node_pull_policy: str = "IfNotPresent"
    log_level: str = "info"
    http_port: int = 8080
    workers: int = 4
    poll_seconds: float = 3.0
    relist_seconds: float = 180.0


def options_from(environment: Mapping[str, str]) -> Options:
    """Returns the options that the environment gives, or raises InvalidField that names the variable."""
    namespaces = tuple(part.strip() for part in environment.get("WATCH_NAMESPACES", "").split(",") if part.strip())
    for namespace in namespaces:
        if not is_id(namespace):
            raise InvalidField(
                "does not name a namespace",
                field="WATCH_NAMESPACES",
                value=namespace,
                remedy="give names separated by commas, or leave it empty for all namespaces",
            )
    level = environment.get("LOG_LEVEL", "info").lower() or "info"
    if level not in LOG_LEVELS:
        raise InvalidField("is no log level", field="LOG_LEVEL", value=level, remedy=f"use {', '.join(LOG_LEVELS)}")
    return Options(
        namespaces=tuple(dict.fromkeys(namespaces)),
        own_namespace=environment.get("POD_NAMESPACE", "") or "default",
        node_image=environment.get("NODE_IMAGE", "") or Options.node_image,
        node_pull_policy=environment.get("NODE_IMAGE_PULL_POLICY", "") or Options.node_pull_policy,
        log_level=level,
        http_port=_number(environment, "HTTP_PORT", Options.http_port, minimum=0, maximum=65_535),
        workers=_number(environment, "WORKERS", Options.workers, minimum=1, maximum=64),
    )


def _number(environment: Mapping[str, str], name: str, default: int, *, minimum: int, maximum: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal() or not minimum <= int(text) <= maximum:
        raise InvalidField("is out of range", field=name, value=text, remedy=f"use {minimum} to {maximum}")
    return int(text)

"""What the cluster says about a pod, in words that a person can act on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agentworld_operator.plan.files import HTTP_PORT
from agentworld_operator.resources import reasons
from agentworld_operator.resources.objects import Object, is_deleting, name_of

_PULL_FAILURES = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_CRASHES = ("CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PodFacts:
    """One pod: whether it runs, is ready, where it answers, and what keeps it from running.

    ``started`` says that it has answered before, ``place`` is the Kubernetes node that it is on.
    """

    name: str
    exists: bool = False
    started: bool = False
    ready: bool = False
    finished: bool = False
    address: str = ""
    place: str = ""
    reason: str = ""
    message: str = ""


def pod_facts(name: str, pod: Object | None) -> PodFacts:
    """Returns the facts of a pod, which may not exist."""
    if pod is None:
        return PodFacts(name=name)
    status = pod.get("status") or {}
    reason, message = _trouble(pod, status)
    address = status.get("podIP", "") if not is_deleting(pod) else ""
    conditions = {item.get("type"): item for item in status.get("conditions") or []}
    return PodFacts(
        name=name_of(pod),
        exists=not is_deleting(pod),
        started=_has_started(status) and not is_deleting(pod),
        ready=conditions.get("Ready", {}).get("status") == "True" and not is_deleting(pod),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        address=f"{_bracketed(address)}:{HTTP_PORT}" if address else "",
        place=str((pod.get("spec") or {}).get("nodeName") or ""),
        reason=reason,
        message=message,
    )


def _has_started(status: Mapping[str, Any]) -> bool:
    containers = status.get("containerStatuses") or []
    return bool(containers) and all(item.get("started") is True for item in containers)


def _trouble(pod: Object, status: Mapping[str, Any]) -> tuple[str, str]:
    for container in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _PULL_FAILURES:
            # The kubelet changes its words with every try; a condition that follows them would be written every time.
            return reasons.IMAGE_PULL_FAILED, (
                f"pod {name_of(pod)} cannot pull {container.get('image') or 'its image'}; kubectl describe pod"
                f" {name_of(pod)} shows why. Load the image onto the nodes, or correct spec.image of the World or"
                " node.image of the chart"
            )
        if waiting.get("reason") in _CRASHES:
            ended = (container.get("lastState") or {}).get("terminated") or {}
            detail = str(ended.get("message") or waiting.get("message") or waiting["reason"])[-300:]
            return reasons.NODE_CRASHING, (
                f"pod {name_of(pod)} does not stay up ({waiting['reason']}, exit code {ended.get('exitCode', '?')}):"
                f" {detail}. See kubectl logs {name_of(pod)} --previous"
            )
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return reasons.UNSCHEDULABLE, (
                f"pod {name_of(pod)} finds no place: {str(condition.get('message'))[:300]}."
                " Add capacity, or change resources, affinity or tolerations"
            )
    return "", ""


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address

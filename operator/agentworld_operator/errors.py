"""What can go wrong between the operator and its two neighbours: the API server and the nodes."""

from __future__ import annotations

from agentworld_core.errors import AgentWorldError


class KubernetesError(AgentWorldError):
    """The API server refused or did not answer; ``status`` is its HTTP status, 0 when there was none."""

    code = "kubernetes_error"
    http_status = 502

    def __init__(self, message: str, *, status: int, field: str | None = None):
        super().__init__(message, field=field)
        self.status = status


class AlreadyExists(KubernetesError):
    """An object of that name exists already."""

    code = "already_exists"


class Conflict(KubernetesError):
    """The object has changed since it was read; read again and try again."""

    code = "conflict"


class NodeUnreachable(AgentWorldError):
    """A node did not answer in time."""

    code = "node_unreachable"
    wire = "ERR_NOT_AVAILABLE"


class NodeRefused(AgentWorldError):
    """A node refused a request; ``refusal`` is its own stable code, ``again`` whether the same may succeed later."""

    code = "node_refused"

    def __init__(self, message: str, *, refusal: str, again: bool):
        super().__init__(message)
        self.refusal = refusal
        self.again = again

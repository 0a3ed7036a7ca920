"""The OpenAPI description of the gateway, built from one table of operations."""

from __future__ import annotations

import dataclasses
from importlib import metadata
from typing import Any

from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.tree_nodes import MAX_KEY_BYTES
from agentworld_node.api.limits import MAX_BLOCKS, MAX_HEIGHT, MAX_WAIT_SECONDS

_JSON, _CBOR, _SSE, _TEXT = "application/json", "application/cbor", "text/event-stream", "text/plain"

# method, path, summary, query and path parameters, media types of the answer
_OPERATIONS: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("post", "/v1/actions", "Submit one signed action or several", ("wait", "timeout_s"), (_JSON,)),
    ("get", "/v1/actions/{action_id}", "Receipt: pooled, accepted_at_ms, or committed with the outcome", (), (_JSON,)),
    ("get", "/v1/head", "Newest committed block with its certificate", (), (_JSON, _CBOR)),
    ("get", "/v1/genesis", "Genesis document", (), (_JSON, _CBOR)),
    ("get", "/v1/blocks", "Consecutive blocks with batches and certificates", ("from", "limit"), (_CBOR,)),
    ("get", "/v1/blocks/{block}", "One block by height or hash", (), (_JSON, _CBOR)),
    ("get", "/v1/directories/{epoch}", "A directory epoch, or latest", (), (_JSON, _CBOR)),
    ("get", "/v1/revocations", "Revocation statements that this node holds", (), (_JSON, _CBOR)),
    ("get", "/v1/state", "State entries under a prefix at the head", ("prefix", "after", "limit"), (_JSON,)),
    ("get", "/v1/evidence", "Proofs that this node holds of validators that voted twice", (), (_JSON, _CBOR)),
    ("get", "/v1/evidence/{hash}", "One proof, with both signed votes", (), (_JSON, _CBOR)),
    ("get", "/v1/state/{key}", "Value under a state key at the head, with proof on request", ("proof",), (_JSON,)),
    ("get", "/v1/blobs/{hash}", "Bytes of a content id", (), ("application/octet-stream",)),
    ("get", "/v1/events", "Committed blocks and their events as they come", ("from",), (_SSE,)),
    ("get", "/v1/status", "What the node knows of itself", (), (_JSON,)),
    ("get", "/v1/consensus", "Height being decided: votes, lease, and why it moves or does not", (), (_JSON,)),
    ("get", "/v1/writer", "Who holds the writer lease, and in which term", (), (_JSON,)),
    ("post", "/control/v1/writer", "Hand the writer lease to a validator, signed by governance", (), (_JSON,)),
    ("post", "/control/v1/directories", "Submit the next directory epoch, signed by governance", (), (_JSON,)),
    ("post", "/control/v1/revocations", "Submit a revocation, signed by governance", ("force",), (_JSON,)),
    ("get", "/livez", "Is the process able to make progress", (), (_TEXT,)),
    ("get", "/readyz", "Is the node in sync and taking actions", (), (_TEXT,)),
    ("get", "/metrics", "Prometheus metrics", (), (_TEXT,)),
)

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_FLAG = {"type": "string", "enum": ["0", "1", "false", "true"]}
_KEY = {"type": "string", "maxLength": MAX_KEY_BYTES}
_HEIGHT = {"type": "integer", "minimum": 1, "maximum": MAX_HEIGHT}

_PARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "wait": (
        "pooled (default) answers at once; committed answers when the action is in a block",
        {"type": "string", "enum": ["pooled", "committed"]},
    ),
    "timeout_s": (
        "seconds to wait for wait=committed; after it 504 and the action stays pooled",
        {"type": "integer", "minimum": 1, "maximum": MAX_WAIT_SECONDS},
    ),
    "from": ("first height", _HEIGHT),
    "limit": ("how many at most", {"type": "integer", "minimum": 1, "maximum": MAX_BLOCKS}),
    "proof": ("1 adds a Merkle proof of presence or absence", _FLAG),
    "force": ("1 allows revoking the last usable governance key", _FLAG),
    "action_id": ("content id of the action", _HASH),
    "block": ("height or block hash", {"type": "string", "pattern": "^([0-9]{1,19}|[0-9a-f]{64})$"}),
    "epoch": ("number of the epoch, or latest", {"type": "string", "pattern": "^([0-9]{1,19}|latest)$"}),
    "key": ("state key such as agent/alice", {"type": "string", "minLength": 1}),
    "hash": ("content id", _HASH),
    "prefix": ("what the keys begin with, such as object/; all keys without it", _KEY),
    "after": ("the key behind which to go on", _KEY),
}


def query_parameters(method: str, path: str) -> tuple[str, ...] | None:
    """Returns the query parameters of an operation, None for one that this table does not hold or that takes any."""
    if not path.startswith(("/v1/", "/control/")):
        return None
    wanted = "get" if method == "HEAD" else method.lower()
    return next((query for verb, where, _, query, _ in _OPERATIONS if (verb, where) == (wanted, path)), None)


def openapi_document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of a node's HTTP API."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, summary, query, media in _OPERATIONS:
        operation: dict[str, Any] = {
            "summary": summary,
            "operationId": f"{method}_{path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}",
            "parameters": [_parameter(name, "query") for name in query] + _path_parameters(path),
            "responses": {
                "200": {"description": summary, "content": {kind: {} for kind in media}},
                "default": {
                    "description": "Error",
                    "content": {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if method == "post":
            operation["requestBody"] = {"required": True, "content": _request_body(path)}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "agent-world node", "version": metadata.version("agent-world")},
        "paths": paths,
        "components": {"schemas": {"Error": _error_schema(), "Action": _action_schema()}},
    }


def _parameter(name: str, where: str) -> dict[str, Any]:
    text, schema = _PARAMETERS[name]
    return {"name": name, "in": where, "required": where == "path", "description": text, "schema": schema}


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [_parameter(part[1:-1], "path") for part in path.split("/") if part.startswith("{")]


def _request_body(path: str) -> dict[str, Any]:
    if not path.startswith("/v1/"):
        return {_CBOR: {}}
    action = {"$ref": "#/components/schemas/Action"}
    several = {"type": "object", "required": ["actions"], "properties": {"actions": {"type": "array", "items": action}}}
    return {_CBOR: {}, _JSON: {"schema": {"oneOf": [action, several]}}}


def _error_schema() -> dict[str, Any]:
    texts = {name: {"type": "string"} for name in ("code", "message", "field", "value", "remedy")}
    inner = {"type": "object", "required": ["code", "message", "retryable"], "properties": texts}
    inner["properties"] = {**texts, "retryable": {"type": "boolean"}, "retry_after_ms": {"type": "integer"}}
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


def _action_schema() -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(ActionEnvelope)]
    integers = {"nonce", "timestamp_ms"}
    properties = {name: {"type": "integer" if name in integers else "string"} for name in names}
    for name in ("payload_cbor", "signature", "public_key"):
        properties[name]["description"] = "bytes in hexadecimal"
    return {"type": "object", "required": names, "additionalProperties": False, "properties": properties}

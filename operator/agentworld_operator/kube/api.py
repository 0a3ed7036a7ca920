"""The API server over HTTP, with plain dictionaries in and out."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException

from agentworld_operator.errors import AlreadyExists, Conflict, KubernetesError
from agentworld_operator.kube.kinds import KINDS
from agentworld_operator.resources.objects import MANAGER, Object, name_of

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_JSON = "application/json"
_PAGE = 500
_READS = ("GET",)


class KubernetesApi:
    """Talks to one API server; counts its requests by verb, so that idle time can be shown to write nothing."""

    def __init__(self, api_client: client.ApiClient, *, timeout_seconds: float = 20):
        self._client = api_client
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self.requests: Counter[str] = Counter()

    @property
    def writes(self) -> int:
        """The number of requests that were not reads."""
        return sum(count for verb, count in self.requests.items() if verb not in _READS)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Returns an object as it is now, None when there is none."""
        try:
            return await self._request("GET", KINDS[kind].path(namespace, name))
        except KubernetesError as error:
            if error.status == 404:
                return None
            raise

    async def find(self, kind: str, namespace: str | None, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Returns the objects of a namespace, or of all, that carry the labels."""
        query = [("limit", str(_PAGE))]
        if labels:
            query.append(("labelSelector", ",".join(f"{key}={value}" for key, value in sorted(labels.items()))))
        items: list[Object] = []
        token = ""
        while True:
            page = await self._request(
                "GET", KINDS[kind].path(namespace), query=query + ([("continue", token)] if token else [])
            )
            # A list leaves out what all its items share.
            shared = {"apiVersion": KINDS[kind].api_version, "kind": kind}
            items += [{**shared, **item} for item in page.get("items") or []]
            token = page.get("metadata", {}).get("continue", "")
            if not token:
                return items

    async def create(self, obj: Object) -> Object:
        """Stores a new object; raises AlreadyExists when the name is taken."""
        path = KINDS[obj["kind"]].path(obj["metadata"]["namespace"])
        return await self._request("POST", path, body=obj, query=[("fieldManager", MANAGER)])

    async def apply(self, obj: Object) -> Object:
        """Makes our fields of an object as given (server-side apply), and returns the whole object."""
        path = KINDS[obj["kind"]].path(obj["metadata"]["namespace"], name_of(obj))
        query = [("fieldManager", MANAGER), ("force", "true")]
        return await self._request("PATCH", path, body=obj, query=query, content_type=_APPLY)

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merges a patch into an object."""
        query = [("fieldManager", MANAGER)]
        path = KINDS[kind].path(namespace, name)
        return await self._request("PATCH", path, body=dict(patch), query=query, content_type=_MERGE)

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merges a patch into the status of an object."""
        query = [("fieldManager", MANAGER)]
        path = KINDS[kind].path(namespace, name, "status")
        return await self._request("PATCH", path, body={"status": dict(patch)}, query=query, content_type=_MERGE)

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Deletes that very object; one that is gone or has been replaced is left alone."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", KINDS[kind].path(namespace, name), body=body)
        except Conflict:
            return
        except KubernetesError as error:
            if error.status != 404:
                raise

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: list[tuple[str, str]] | None = None,
        content_type: str = _JSON,
    ) -> Object:
        self.requests[method] += 1
        headers = {"Accept": _JSON, "Content-Type": content_type}
        try:
            request = await self._client.param_serialize(
                method, path, query_params=query or [], header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            response = await self._client.call_api(*request, _request_timeout=self._timeout)
            data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubernetesError(f"{method} {path}: no answer ({error})", status=0) from error
        except ApiException as error:
            raise _typed(method, path, error.status or 0, str(error.body or error.reason)) from error
        if not 200 <= response.status <= 299:
            raise _typed(method, path, response.status, data.decode(errors="replace"))
        parsed = json.loads(data)
        return parsed if isinstance(parsed, dict) else {}


def _typed(method: str, path: str, status: int, body: str) -> KubernetesError:
    """Returns the typed error of a failed request, in the API server's own words."""
    reason, message = "", body
    # A proxy in between may answer with something else than a Status object; its text is then the message.
    with contextlib.suppress(ValueError):
        parsed = json.loads(body)
        if isinstance(parsed, dict):
            reason, message = str(parsed.get("reason", "")), str(parsed.get("message", body))
    message = f"{method} {path}: {message[:1000]}"
    if reason == "AlreadyExists":
        return AlreadyExists(message, status=status)
    if status == 409:
        return Conflict(message, status=status)
    return KubernetesError(message, status=status)

"""Keeps the writer lease and the node's heartbeat in ``coordination.k8s.io`` Leases, by compare-and-swap.

The term is ``leaseTransitions + 1``, so that it never goes back while the object lives. Times of the API object are
written for people to read and are never compared here. pykube is synchronous and small: calls run in a thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pykube
import requests

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite

REQUEST_SECONDS = 4.0
WATCH_SECONDS = 30.0
"""How long a watch may be silent before it is begun anew, should the other end be gone without a word."""
CLIENT_SECONDS = 300.0
"""How long a client is used: the token of a pod is exchanged by the kubelet, and pykube reads it only once."""
TROUBLE = (pykube.exceptions.PyKubeError, requests.RequestException, OSError, KeyError, ValueError)
"""What calls raise when the API server refuses, does not answer, or is not configured."""

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Client:
    api: Any
    kind: Any
    made: float


class KubernetesLeases:
    """Reads and replaces Lease objects of one namespace with the pod's service account."""

    def __init__(self, namespace: str, *, configure: Callable[[], pykube.KubeConfig] = pykube.KubeConfig.from_env):
        self._namespace = namespace
        self._configure = configure
        self._local = threading.local()

    def get(self, name: str) -> dict[str, Any] | None:
        """Returns the Lease as the API server has it now, None when there is none."""
        with self._client() as client:
            lease = client.kind.objects(client.api, namespace=self._namespace).get_or_none(name=name)
            return None if lease is None else dict(lease.obj)

    def replace(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Puts the whole Lease if its resourceVersion is still current and returns it as stored, else None."""
        with self._client() as client:
            lease = client.kind(client.api, body)
            response = client.api.put(**lease.api_kwargs(json=body, timeout=REQUEST_SECONDS))
            if response.status_code == 409:
                return None
            client.api.raise_for_status(response)
            return dict(response.json())

    def watch(self, name: str) -> Iterator[None]:
        """Yields once for the Lease as it is and once for every change, until the API server ends it.

        Raises one of ``TROUBLE`` when it is refused, or silent for longer than a watch may be.
        """
        api = pykube.HTTPClient(self._configure(), timeout=WATCH_SECONDS)
        with api.session:
            kind = pykube.object_factory(api, "coordination.k8s.io/v1", "Lease")
            named = kind.objects(api, namespace=self._namespace).filter(field_selector={"metadata.name": name})
            for _ in named.watch():
                yield

    @contextmanager
    def _client(self) -> Iterator[_Client]:
        """Lends the client of this thread, as sessions are not safe to share; one that failed is made anew."""
        client: _Client | None = getattr(self._local, "client", None)
        if client is None or time.monotonic() - client.made > CLIENT_SECONDS:
            api = pykube.HTTPClient(self._configure(), timeout=REQUEST_SECONDS)
            kind = pykube.object_factory(api, "coordination.k8s.io/v1", "Lease")
            client = self._local.client = _Client(api, kind, time.monotonic())
        try:
            yield client
        except BaseException:
            self._local.client = None
            client.api.session.close()
            raise


class KubernetesLeaseStore:
    """The writer lease in a Lease object that the operator has made."""

    def __init__(self, leases: KubernetesLeases, name: str):
        self._leases = leases
        self._name = name
        self._last: dict[str, Any] | None = None
        self._watch: LeaseWatch | None = None

    async def read(self) -> LeaseRecord | None:
        """Returns the record; NotAvailable when the API server or the object is not there."""
        body = await _in_thread(self._leases.get, self._name)
        if body is None:
            raise NotAvailable("there is no such Lease", field="lease", value=self._name, remedy="is the operator up?")
        self._last = body
        return record_of(body)

    async def write(self, wanted: LeaseWrite) -> LeaseRecord | None:
        """Puts the Lease as wanted, None when it had changed or has a higher term."""
        body = self._last
        if body is None or not wanted.may_replace(record_of(body)):
            return None
        stored = await _in_thread(self._leases.replace, lease_body(body, wanted, now=_now()))
        if stored is None:
            return None
        self._last = stored
        return record_of(stored)

    async def changed(self) -> None:
        """Returns when the API server tells of the Lease, which it does not when the node may not watch it."""
        if self._watch is None:
            self._watch = LeaseWatch(self._name, self._leases.watch)
        try:
            await self._watch.next()
        except asyncio.CancelledError:
            self._watch.stop()
            self._watch = None
            raise


class LeaseWatch:
    """Follows a Lease in a thread of its own, which ends by itself some time after it has been stopped."""

    def __init__(self, name: str, watch: Callable[[str], Iterator[None]]):
        self._name = name
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._stopped = threading.Event()
        # A daemon: nobody waits for a read that may last as long as nothing happens.
        threading.Thread(target=self._run, name="lease-watch", daemon=True).start()

    async def next(self) -> None:
        """Returns when something has been told since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def stop(self) -> None:
        """Tells nothing more."""
        self._stopped.set()

    def _run(self) -> None:
        said = False
        while not self._stopped.is_set():
            heard = False
            try:
                for _ in self._watch(self._name):
                    heard = True
                    if not self._tell():
                        return
            except (*TROUBLE, AttributeError, RuntimeError, TypeError) as error:  # pykube takes any line for an object
                if not (heard or said or self._stopped.is_set()):
                    log.info("Lease %s cannot be watched, and is only read from time to time: %s", self._name, error)
                    said = True
            said = said and not heard
            self._stopped.wait(REQUEST_SECONDS)

    def _tell(self) -> bool:
        """False when nobody is there to be told any more."""
        if self._stopped.is_set():
            return False
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:
            return False  # the event loop has ended
        return True


async def renew_heartbeat(leases: KubernetesLeases, name: str, holder: str, *, duration_seconds: int) -> None:
    """Writes that this node is alive into its own Lease; NotAvailable when that fails."""
    body = await _in_thread(leases.get, name)
    if body is None:
        raise NotAvailable("there is no such Lease", field="heartbeat", value=name)
    spec = {**body.get("spec", {}), "holderIdentity": holder, "leaseDurationSeconds": duration_seconds}
    spec["renewTime"] = _now()
    await _in_thread(leases.replace, {**body, "spec": spec})


def record_of(body: dict[str, Any]) -> LeaseRecord:
    """Returns what a Lease object says; one that was never held has term 0."""
    spec = body.get("spec") or {}
    transitions = spec.get("leaseTransitions")
    return LeaseRecord(
        holder=spec.get("holderIdentity") or None,
        term=0 if transitions is None else int(transitions) + 1,
        duration_ms=int(spec.get("leaseDurationSeconds") or 0) * 1000,
        version=str(body["metadata"]["resourceVersion"]),
    )


def lease_body(body: dict[str, Any], wanted: LeaseWrite, *, now: str) -> dict[str, Any]:
    """Returns the Lease object that says what is wanted; ``now`` is for people to read."""
    spec = dict(body.get("spec") or {})
    if spec.get("leaseTransitions") != wanted.term - 1:
        spec["acquireTime"] = now
    spec["holderIdentity"] = wanted.holder or ""
    spec["leaseTransitions"] = wanted.term - 1
    spec["leaseDurationSeconds"] = max(1, -(-wanted.duration_ms // 1000))
    spec["renewTime"] = now
    metadata = {**body["metadata"], "resourceVersion": wanted.expected_version}
    metadata.pop("managedFields", None)
    return {**body, "metadata": metadata, "spec": spec}


async def _in_thread(function: Any, *arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(function, *arguments)
    except TROUBLE as error:
        raise NotAvailable(f"the Kubernetes API refused or did not answer: {error}") from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

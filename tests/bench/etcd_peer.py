"""etcd as a peer: one member or three on loopback, spoken to through its JSON gateway on connections kept open."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Self

from tests.bench.processes import end_all, free_ports, wait_for
from tests.chart.api_server import programs


class EtcdMissing(Exception):
    """There is no etcd here, or no API server over it, and why."""


class EtcdClient:
    """Leases and compare-and-swap of one key, as the gateway offers them."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def grant(self, seconds: int) -> str:
        """Returns the id of a new lease."""
        return str(self._post("lease/grant", {"TTL": seconds})["ID"])

    def keep_alive(self, lease: str) -> None:
        """Renews a lease."""
        self._post("lease/keepalive", {"ID": lease})

    def revoke(self, lease: str) -> None:
        """Ends a lease, and with it every key under it."""
        self._post("lease/revoke", {"ID": lease})

    def create(self, key: str, value: str, lease: str | None = None) -> bool:
        """Puts a key that must not be there; True when it was not."""
        return self._swap(key, value, {"target": "CREATE", "create_revision": "0"}, lease)

    def replace(self, key: str, value: str, revision: str) -> bool:
        """Puts a key that must still have this revision."""
        return self._swap(key, value, {"target": "MOD", "mod_revision": revision}, None)

    def revision(self, key: str) -> str | None:
        """Returns the revision of a key, None when it is not there."""
        found = self._post("kv/range", {"key": _coded(key)}).get("kvs")
        return str(found[0]["mod_revision"]) if found else None

    def put(self, key: str, value: str) -> None:
        """Puts a key."""
        self._post("kv/put", {"key": _coded(key), "value": _coded(value)})

    def is_healthy(self) -> bool:
        """True once the member takes writes."""
        try:
            self._post("kv/range", {"key": _coded("health")})
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return True

    def _swap(self, key: str, value: str, compare: dict[str, str], lease: str | None) -> bool:
        put = {"key": _coded(key), "value": _coded(value), **({} if lease is None else {"lease": lease})}
        wish = {"compare": [{"key": _coded(key), **compare}], "success": [{"request_put": put}]}
        return bool(self._post("kv/txn", wish).get("succeeded"))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._connection.request("POST", f"/v3/{path}", json.dumps(body))
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise OSError(f"etcd answers {answer.status} to {path}: {data[:200]!r}")
        return dict(json.loads(data))


class Etcd:
    """One member or three, each with its data on the disk that is measured; ended on exit."""

    def __init__(self, folder: Path, *, members: int = 1):
        self._folder = folder / f"etcd-{members}"
        self._names = [f"member-{number}" for number in range(members)]
        self._binary = _find()
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._folder.mkdir()
        count = len(self._names)
        free = free_ports(2 * count)
        self.ports, peers = free[:count], free[count:]
        own = [f"http://127.0.0.1:{port}" for port in peers]
        everyone = ",".join(f"{name}={url}" for name, url in zip(self._names, own, strict=True))
        try:
            for name, port, url in zip(self._names, self.ports, own, strict=True):
                self._processes.append(self._start(name, f"http://127.0.0.1:{port}", url, everyone))
            for port in self.ports:
                wait_for(EtcdClient(port).is_healthy, "etcd takes requests")
        except BaseException:
            end_all(self._processes)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self._processes)

    def _start(self, name: str, client: str, peer: str, everyone: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [self._binary, f"--name={name}", f"--data-dir={self._folder / name}", "--log-level=error",
                 f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
                 f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                 f"--initial-cluster={everyone}"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def client(self) -> EtcdClient:
        """Returns a connection of its own to the first member."""
        return EtcdClient(self.ports[0])


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _find() -> str:
    """Returns the path of etcd: installed, or built for the local cluster."""
    installed, built = shutil.which("etcd"), programs()
    if installed is None and built is None:
        raise EtcdMissing("etcd is not installed, and `make cluster-build` has not built it")
    return installed or f"{built}/etcd"

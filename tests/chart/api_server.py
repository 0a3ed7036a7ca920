"""A real API server with nothing behind it: etcd and kube-apiserver on loopback, no nodes, no controllers."""

from __future__ import annotations

import contextlib
import json
import secrets
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentworld_node.supervisor.ports import free_port
from tests.chart.crd import FILES, ROOT, crd

SECONDS_TO_START = 60
PAUSE = 0.05  # between two looks
JSON = "application/json"
GROUP = "/apis/agentworld.dev/v1alpha1"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def programs() -> Path | None:
    """The folder with etcd and kube-apiserver as `hack/cluster/cluster build` makes them; None when it has not."""
    sys.path.insert(0, str(ROOT / "hack" / "cluster"))
    try:
        from localcluster.binaries import located
        from localcluster.settings import DEFAULT_NAME, folders
    finally:
        sys.path.pop(0)
    binaries = located(folders(DEFAULT_NAME).cache)
    return binaries.bin if binaries.built else None


@dataclass(frozen=True)
class Answer:
    """An HTTP answer of the API server."""

    code: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


@dataclass(frozen=True)
class ApiServer:
    """Speaks JSON with an API server as its administrator."""

    url: str
    token: str

    def kubeconfig(self, certificate: Path, *, token: str = "", namespace: str = "default") -> dict[str, Any]:
        """What somebody with this token, or the administrator, reads to reach it."""
        return {
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(certificate)}}],
            "users": [{"name": "u", "user": {"token": token or self.token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
            "current-context": "x",
        }

    def call(
        self, method: str, path: str, body: Any = None, *, content: str = JSON, accept: str = JSON, user: str = ""
    ) -> Answer:
        """Sends one request, as another user if need be; refusals are answers; OSError when nobody answers."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content, "Accept": accept}
        if user:
            headers["Impersonate-User"] = user
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=headers)
        # The certificate was made by the server for itself a moment ago, and the connection stays on loopback.
        trusting = urllib.request.HTTPSHandler(context=ssl._create_unverified_context())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trusting)
        try:
            with opener.open(request, timeout=20) as answer:
                return Answer(answer.status, _object(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _object(error.read()))

    def apply(self, path: str, manifest: dict[str, Any]) -> Answer:
        """Server-side apply under a field manager of its own."""
        query = "?fieldManager=tests&force=true&fieldValidation=Strict"
        return self.call("PATCH", path + query, manifest, content="application/apply-patch+yaml")


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"message": text.decode(errors="replace")}
    return value if isinstance(value, dict) else {"message": str(value)}


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def api_server(bin_folder: Path, home: Path) -> Iterator[ApiServer]:
    """Runs an API server as long as the block; raises with the end of its log when it does not come up."""
    etcd_url, peer_url = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    storage = [
        f"{bin_folder}/etcd", "--name=e", f"--data-dir={home / 'etcd'}", "--unsafe-no-fsync", "--log-level=error",
        f"--listen-client-urls={etcd_url}", f"--advertise-client-urls={etcd_url}",
        f"--listen-peer-urls={peer_url}", f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=e={peer_url}",
    ]  # fmt: skip
    with _running(storage, home / "etcd.log"), api_server_over([etcd_url], bin_folder, home) as api:
        yield api


@contextlib.contextmanager
def api_server_over(etcd_urls: Sequence[str], bin_folder: Path, home: Path) -> Iterator[ApiServer]:
    """Runs an API server that keeps its objects in an etcd that is there; raises as ``api_server`` does."""
    port, token = free_port(), secrets.token_hex(16)
    (home / "tokens.csv").write_text(f"{token},admin,1,system:masters\n")
    key = home / "service-accounts.key"
    key.write_bytes(
        rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    server = [
        f"{bin_folder}/kube-apiserver", f"--etcd-servers={','.join(etcd_urls)}", "--bind-address=127.0.0.1",
        f"--secure-port={port}", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
        f"--cert-dir={home / 'certificates'}", f"--token-auth-file={home / 'tokens.csv'}", "--authorization-mode=RBAC",
        "--service-account-issuer=https://tests", f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.97.0.0/16",
        "--disable-admission-plugins=ServiceAccount",
    ]  # fmt: skip
    log = home / "kube-apiserver.log"
    with _running(server, log) as process:
        api = ApiServer(f"https://127.0.0.1:{port}", token)
        _wait_until_ready(api, process, log)
        yield api


def _wait_until_ready(api: ApiServer, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        assert process.poll() is None, "it has ended"
        with contextlib.suppress(OSError):
            return api.call("GET", "/readyz").code == 200
        return False

    try:
        wait_until(ready, "is not ready")
    except AssertionError as error:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise AssertionError(f"kube-apiserver: {error}\n{tail}") from error


def wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    """Returns as soon as the condition holds, and fails when it does not in time."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        assert time.monotonic() < deadline, f"{otherwise} after {SECONDS_TO_START} s"
        time.sleep(PAUSE)


def plural(kind: str) -> str:
    return str(crd(kind)["spec"]["names"]["plural"])


def install_definitions(api: ApiServer) -> None:
    """Applies our three definitions and returns when they are served."""
    for kind in FILES:
        definition = crd(kind)
        answer = api.apply(f"{DEFINITIONS}/{definition['metadata']['name']}", definition)
        assert answer.code in (200, 201), answer.message
    wait_until(lambda: all(_served(api, kind) for kind in FILES), "our kinds are not served")


def _served(api: ApiServer, kind: str) -> bool:
    return api.call("GET", f"{GROUP}/{plural(kind)}").code == 200

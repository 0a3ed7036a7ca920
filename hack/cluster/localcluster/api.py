"""Asks the API server small questions without starting kubectl, which costs a third of a second each time."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from .settings import Addresses, Folders


def healthy(url: str) -> bool:
    """Tells whether a component's own health page says that all is well."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Api:
    """Reads from the API server as its administrator."""

    def __init__(self, folders: Folders, addresses: Addresses) -> None:
        context = ssl.create_default_context(cafile=str(folders.pki / "ca.crt"))
        context.load_cert_chain(folders.pki / "admin.crt", folders.pki / "admin.key")
        # an empty ProxyHandler: the server is on loopback, whatever the environment says
        handlers = (urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        self._server = addresses.server

    def get(self, path: str) -> Any:
        """Returns the decoded answer, or None when there is none (not up, not found, not ready)."""
        try:
            with self._opener.open(self._server + path, timeout=5) as answer:
                body = answer.read()
        except (urllib.error.URLError, OSError):
            return None
        return json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

    def ready(self) -> bool:
        """Tells whether the API server serves."""
        return bool(self.get("/readyz") == "ok")

    def exists(self, path: str) -> bool:
        """Tells whether an object is there."""
        return self.get(path) is not None

    def node_ready(self, name: str) -> bool:
        """Tells whether a node reports Ready."""
        node = self.get(f"/api/v1/nodes/{name}")
        conditions = node["status"].get("conditions", []) if node else []
        return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)

"""The cluster's own certificate authority, its certificates and the kubeconfig files that carry them."""

import base64
import json
import secrets
from pathlib import Path

from .commands import run
from .settings import MAX_NODES, Addresses, Folders

_DAYS = "3650"


def create(folders: Folders, addresses: Addresses) -> None:
    """Makes what is missing: authority, service account key, certificates and kubeconfigs of the components."""
    pki = folders.pki
    pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    _authority(pki)
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ]
    server = [f"DNS:{name}" for name in names]
    server += [f"IP:{ip}" for ip in ("127.0.0.1", addresses.kubernetes_ip, addresses.host_ip)]
    _certificate(pki, "apiserver", "/CN=kube-apiserver", server)
    for name, subject in {
        "admin": "/O=system:masters/CN=admin",
        "kubelet-client": "/O=system:masters/CN=kube-apiserver-kubelet-client",
        "controller-manager": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "front-proxy": "/CN=front-proxy-client",
    }.items():
        _certificate(pki, name, subject, [])
    for name in ("controller-manager", "scheduler"):
        _kubeconfig(folders, pki / f"{name}.kubeconfig", name, addresses.server)
    _kubeconfig(folders, pki / "proxy.kubeconfig", "proxy", addresses.server_for_nodes)
    _kubeconfig(folders, pki / "dns.kubeconfig", "admin", addresses.server_for_nodes)
    _kubeconfig(folders, folders.kubeconfig, "admin", addresses.server)


def create_node(folders: Folders, addresses: Addresses, node: int) -> None:
    """Makes the certificate and kubeconfig of one kubelet."""
    if not 1 <= node <= MAX_NODES:
        raise ValueError(f"node {node}")
    name = f"node{node}"
    alternatives = [f"DNS:{name}", f"IP:{addresses.node_ip(node)}", "IP:127.0.0.1"]
    _certificate(folders.pki, name, f"/O=system:nodes/CN=system:node:{name}", alternatives)
    _kubeconfig(folders, folders.pki / f"{name}.kubeconfig", name, addresses.server_for_nodes)


def _authority(pki: Path) -> None:
    if (pki / "ca.crt").exists():
        return
    for name in ("ca", "service-account"):
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", pki / f"{name}.key"])
    run(["openssl", "ec", "-in", pki / "service-account.key", "-pubout", "-out", pki / "service-account.pub"])
    usage = "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"
    subject: list[str | Path] = ["-subj", "/CN=agent-world-local", "-days", _DAYS, "-addext", usage]
    run(["openssl", "req", "-x509", "-new", "-key", pki / "ca.key", *subject, "-out", pki / "ca.crt"])


def _certificate(pki: Path, name: str, subject: str, alternatives: list[str]) -> None:
    """Makes a key and a certificate that serves both as server and as client."""
    key, request, extensions, certificate = (pki / f"{name}.{end}" for end in ("key", "csr", "ext", "crt"))
    if certificate.exists():
        return
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
    run(["openssl", "req", "-new", "-key", key, "-subj", subject, "-out", request])
    lines = ["keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth,clientAuth"]
    lines += ["subjectAltName=" + ",".join(alternatives)] if alternatives else []
    extensions.write_text("\n".join(lines) + "\n")
    # a serial number of its own: the file in which openssl counts them is not safe when nodes are made side by side
    serial = hex(secrets.randbits(128) | 1 << 127)
    signer: list[str | Path] = ["-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-set_serial", serial, "-days", _DAYS]
    run(["openssl", "x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", certificate])
    request.unlink()
    extensions.unlink()


def _kubeconfig(folders: Folders, path: Path, user: str, server: str) -> None:
    """Writes credentials in one file that can be copied elsewhere; JSON is YAML."""

    def data(name: str) -> str:
        return base64.b64encode((folders.pki / name).read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": folders.name, "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")},
            }
        ],
        "contexts": [{"name": folders.name, "context": {"cluster": folders.name, "user": user}}],
        "current-context": folders.name,
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1) + "\n")

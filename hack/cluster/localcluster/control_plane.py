"""The control plane: etcd, API server, controller manager and scheduler as processes of the host, on loopback."""

from collections.abc import Callable

from .api import Api, healthy
from .commands import ClusterError, wait_until
from .processes import Processes
from .settings import Addresses, Folders
from .slots import busy_ports

ETCD, SERVER, CONTROLLERS, SCHEDULER = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"
COMPONENTS = (ETCD, SERVER, CONTROLLERS, SCHEDULER)


def start_storage_and_server(folders: Folders, addresses: Addresses, processes: Processes) -> None:
    """Starts etcd, waits for it, and starts the API server without waiting: nodes can be made meanwhile."""
    if not any(processes.alive(name) for name in COMPONENTS) and (busy := busy_ports(addresses)):
        ports = ", ".join(str(port) for port in busy)
        raise ClusterError(f"another program listens on port {ports}; stop it, or `down --purge` to get other ports")
    if not processes.alive(ETCD):
        processes.spawn(ETCD, _etcd(folders, addresses))
    url = f"http://127.0.0.1:{addresses.ports['etcd']}/health"
    wait(processes, ETCD, lambda: healthy(url), seconds=30)
    if not processes.alive(SERVER):
        processes.spawn(SERVER, _server(folders, addresses))


def start_controllers(folders: Folders, addresses: Addresses, processes: Processes, api: Api) -> None:
    """Waits for the API server and starts what works against it."""
    wait(processes, SERVER, api.ready, seconds=120)
    for name, command in ((CONTROLLERS, _controllers(folders, addresses)), (SCHEDULER, _scheduler(folders, addresses))):
        if not processes.alive(name):
            processes.spawn(name, command)


def stop(processes: Processes) -> None:
    """Stops the control plane, storage last."""
    processes.stop((SCHEDULER, CONTROLLERS), seconds=3)
    processes.stop((SERVER,), seconds=5)
    processes.stop((ETCD,), seconds=5)


def wait(processes: Processes, name: str, condition: Callable[[], bool], *, seconds: float) -> None:
    """Waits until a component answers; ClusterError with the end of its log when it ends or does not answer in time."""

    def answers() -> bool:
        processes.pid(name)  # raises when it has ended
        return condition()

    try:
        wait_until(answers, what=f"{name} to answer", seconds=seconds)
    except ClusterError as error:
        raise ClusterError(f"{error}\n{processes.tail(name)}") from error


def _etcd(folders: Folders, addresses: Addresses) -> list[str]:
    client = f"http://127.0.0.1:{addresses.ports['etcd']}"
    peer = f"http://127.0.0.1:{addresses.ports['etcd-peer']}"
    return [
        "etcd", "--name=local", f"--data-dir={folders.state / 'etcd'}", "--log-level=warn",
        "--unsafe-no-fsync",  # survives kill -9 of everything, not a power failure: enough here, and much faster
        f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=local={peer}",
    ]  # fmt: skip


def _server(folders: Folders, addresses: Addresses) -> list[str]:
    pki = folders.pki
    return [
        "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{addresses.ports['etcd']}",
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.ports['api']}",
        f"--advertise-address={addresses.host_ip}",
        f"--service-cluster-ip-range={addresses.service_network}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--service-account-key-file={pki}/service-account.pub",
        f"--service-account-signing-key-file={pki}/service-account.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
    ]


def _credentials(path: str) -> list[str]:
    return [f"--{purpose}kubeconfig={path}" for purpose in ("", "authentication-", "authorization-")]


def _controllers(folders: Folders, addresses: Addresses) -> list[str]:
    pki = folders.pki
    return [
        "kube-controller-manager",
        *_credentials(f"{pki}/controller-manager.kubeconfig"),
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.ports['controller-manager']}",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki}/service-account.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--allocate-node-cidrs=false",
        f"--service-cluster-ip-range={addresses.service_network}",
    ]


def _scheduler(folders: Folders, addresses: Addresses) -> list[str]:
    return [
        "kube-scheduler",
        *_credentials(f"{folders.pki}/scheduler.kubeconfig"),
        "--bind-address=127.0.0.1",
        f"--secure-port={addresses.ports['scheduler']}",
        "--leader-elect=false",
    ]

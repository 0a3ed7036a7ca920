"""Finds the API server and the operator's credentials: the pod's own, else those of a kubeconfig."""

from __future__ import annotations

import os
from pathlib import Path

from kubernetes.aio import client, config

from agentworld_operator.errors import KubernetesError
from agentworld_operator.kube.api import KubernetesApi

TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


async def connect() -> KubernetesApi:
    """Returns a client of the API server; raises KubernetesError when there are no credentials."""
    settings = client.Configuration()
    try:
        if in_cluster():
            config.load_incluster_config(client_configuration=settings)
        else:
            await config.load_kube_config(client_configuration=settings)
    except (config.ConfigException, OSError) as error:
        raise KubernetesError(
            f"no credentials for an API server: {error}; run in a pod, or set KUBECONFIG", status=0
        ) from error
    return KubernetesApi(client.ApiClient(settings))


def in_cluster() -> bool:
    """True when we run in a pod with a ServiceAccount token."""
    return TOKEN.exists() and "KUBERNETES_SERVICE_HOST" in os.environ

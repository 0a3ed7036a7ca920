"""What every pod of a world is allowed: nothing but to run (the restricted Pod Security Standard)."""

from __future__ import annotations

from typing import Any

USER_ID = 10001
_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a folder, not a secret


def pod_security() -> dict[str, Any]:
    """Returns the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """Returns the security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def token_volume() -> dict[str, Any]:
    """Returns the volume with a short-lived token of the pod's own ServiceAccount, for pods that renew Leases."""
    return {
        "name": "api-access",
        "projected": {
            "defaultMode": 0o440,
            "sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {
                    "downwardAPI": {
                        "items": [
                            {
                                "path": "namespace",
                                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                            }
                        ]
                    }
                },
            ],
        },
    }


def token_mount() -> dict[str, Any]:
    """Returns the mount of the token volume, where Kubernetes clients look for it."""
    return {"name": "api-access", "mountPath": _TOKEN_FOLDER, "readOnly": True}

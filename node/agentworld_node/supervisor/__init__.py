"""Runs a world on one machine from the manifests that Kubernetes takes: one supervisor, one process a node."""

"""The node's own use of the Kubernetes API: its Leases, and nothing else."""

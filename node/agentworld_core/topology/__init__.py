"""What a World means: nodes, roles, identities, addresses, and the file each node starts from.

``parse_manifest`` reads a manifest, ``plan_world`` turns a world's manifests into a Topology, ``build_genesis`` makes
its first document, ``node_settings`` begins the file of a node. Both homes, Kubernetes and one machine,
run exactly this.
"""

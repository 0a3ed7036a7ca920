"""What a World means: nodes, roles, identities, addresses, and the file each node starts from."""

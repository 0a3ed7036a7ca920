"""Pure builders and decisions: what objects a world needs, which step is next, what its status says."""

"""Who belongs to a world and which keys count: the directory chain, revocations, rotation."""

"""Modules: code that a world carries in its own state and runs in a sandbox, with every result part of the ledger."""

"""The ledger: blocks made of batches, what they commit to, and how anybody checks and follows them."""

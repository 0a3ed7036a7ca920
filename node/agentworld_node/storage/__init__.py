"""The node's disk: a write-ahead log, content-addressed blobs, and an index that can be rebuilt from them."""

"""Names, labels, conditions and statuses of the objects that the operator reads and writes."""

"""What the wire looks like, told by the code itself: the schema table, sample values, vectors and their documents."""

"""The operator's way to the API server; nothing outside this package imports the kubernetes client."""

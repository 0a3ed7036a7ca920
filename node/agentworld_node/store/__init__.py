"""Care for a data folder while no node runs on it: what is in it, what is wrong with it, and what is not needed."""

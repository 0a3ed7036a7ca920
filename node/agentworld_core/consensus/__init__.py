"""Two-phase voting on one block per height: rules, votes, certificates and evidence."""

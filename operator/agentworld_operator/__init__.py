"""The Kubernetes operator: turns World, Validator and MembershipKey resources into running worlds.

Watches only enqueue; one level-based reconcile for each world reads everything fresh, plans without side effects,
applies what differs, and patches status once. Nothing is written when nothing has to change.
"""

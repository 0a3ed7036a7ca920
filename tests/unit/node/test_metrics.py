"""The metrics page in the Prometheus text format."""

from __future__ import annotations

import pytest

from agentworld_node.metrics import Metrics


def test_the_page_has_help_type_and_values_in_the_order_of_the_table() -> None:
    metrics = Metrics()
    metrics.count("agentworld_messages_refused_total", topic="vote", code="busy")
    metrics.count("agentworld_messages_refused_total", 2, code="busy", topic="vote")
    metrics.gauge("agentworld_head_height", lambda: 7)
    metrics.table("agentworld_network_total", "name", lambda: {"received": 3, "dropped": 1})
    assert metrics.page() == (
        "# HELP agentworld_head_height Height of the newest committed block of this node\n"
        "# TYPE agentworld_head_height gauge\n"
        "agentworld_head_height 7\n"
        "# HELP agentworld_messages_refused_total Network messages refused, by topic and code\n"
        "# TYPE agentworld_messages_refused_total counter\n"
        'agentworld_messages_refused_total{code="busy",topic="vote"} 3\n'
        "# HELP agentworld_network_total Counters of the network adapter, by name\n"
        "# TYPE agentworld_network_total counter\n"
        'agentworld_network_total{name="dropped"} 1\n'
        'agentworld_network_total{name="received"} 3\n'
    )
    assert metrics.total("agentworld_messages_refused_total") == 3
    assert metrics.total("agentworld_evidence_total") == 0


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.count("agentworld_actions_refused_total", code='a"b\\c\nd')
    assert 'agentworld_actions_refused_total{code="a\\"b\\\\c\\nd"} 1' in metrics.page()


def test_names_without_a_help_text_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="no help text"):
        Metrics().count("agentworld_typo_total")

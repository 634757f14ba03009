"""The section "steering" of `evaluate`, at tiny size."""

from __future__ import annotations

from modules.evaluation.labels import LABELS
from modules.evaluation.steering import measure_steering

PROMPTS = ["Rusty the fox wants a kite", "a bear on the beach"]


def test_steering_is_measured_with_floors_and_ceilings(tiny_pipeline, tiny_judge):
    metrics = measure_steering(tiny_pipeline, PROMPTS, 2, tiny_judge)
    assert metrics["other_pages_same"].value == 1 and metrics["replay_exact"].value == 1
    assert 0 <= metrics["branches_differ"].value <= 1 and metrics["search_agree"].ceiling == 1
    assert set(metrics) <= set(LABELS) and all(metric.floor is not None for metric in metrics.values())
    again = measure_steering(tiny_pipeline, PROMPTS, 2)
    judged = {"search_agree", "text_edit_obeyed", "text_edit_kept"}
    assert again == {name: metric for name, metric in metrics.items() if name not in judged}

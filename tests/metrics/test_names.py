"""What a person may call a metric."""

from __future__ import annotations

import pytest

from qgraph._graph.errors import UsageError
from qgraph._metrics.table import find_metric

LM = ["loss", "perplexity", "kl", "top1_agreement", "vqa_accuracy"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("loss", "loss"),
        ("KL", "kl"),
        ("top-1 as float", "top1_agreement"),
        ("top1", "top1_agreement"),
        ("questions", "vqa_accuracy"),
    ],
)
def test_a_key_a_label_or_a_beginning_will_do(text: str, key: str) -> None:
    assert find_metric(text, LM, "--fail-if") == key


def test_a_whole_name_goes_before_a_beginning() -> None:
    assert find_metric("top1", ["top1", "top1_agreement"], "--accept") == "top1"
    assert find_metric("map", ["map50", "map"], "--accept") == "map"


def test_others_are_refused_with_what_there_is_and_what_is_near() -> None:
    with pytest.raises(
        UsageError, match=r"--budget: no metric 'losss'.*vqa_accuracy \(questions\)"
    ):
        find_metric("losss", LM, "--budget")
    with pytest.raises(UsageError, match="Did you mean perplexity"):
        find_metric("perplexty", LM, "--budget")
    with pytest.raises(UsageError, match="no metric 'top'"):
        find_metric("top", ["top1", "top5"], "--budget")


def test_what_other_tools_call_a_metric_is_understood_and_labels_are_named_where_they_lack() -> (
    None
):
    with pytest.raises(UsageError, match=r"(?s)there are top1.*Did you mean top1"):
        find_metric("accuracy", ["mse", "top1"], "--accept")
    for name in ("accuracy", "top1", "mAP50"):
        with pytest.raises(UsageError, match=r"measured where the data holds .*labels"):
            find_metric(name, ["mse", "sqnr_db"], "--accept")

"""Scores that say nothing, because of the model or the data: said in words, not left to be seen."""

from __future__ import annotations

from sensitivity.scoring import Scores

_ORDER = "Ranks are the order of the graph and mean nothing."


def warnings_of(scores: Scores) -> tuple[str, ...]:
    """Return what is wrong with all scores together; none where they tell nodes apart."""
    samples = scores.samples
    if not samples:
        return ()
    if not any(sums.signal for row in samples for sums in row):
        return ("the float model's outputs are 0 throughout. Check the model and the data.",)
    if not any(sums.error or sums.failed for row in samples for sums in row):
        return (
            "all scores are 0: quantizing any node, or all of them, changes no output. Outputs are"
            " constant, saturated, or do not depend on the candidates; or the data is all zeros."
            f" {_ORDER}",
        )
    if len(samples) > 1 and all(samples[i] == samples[0] for i in range(1, len(samples))):
        return (
            f"all {len(samples)} samples have the very same scores: the outputs do not depend on"
            " the input, or the samples are all alike.",
        )
    return ()

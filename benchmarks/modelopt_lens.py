"""NVIDIA ModelOpt's AutoQuantize scores by gradient: `modelopt_lens.py MODEL SAMPLES OUTPUT`.

Runs in ModelOpt's own environment; benchmarks/lenses.py calls it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
from lens_models import load, write_scores
from modelopt.torch.quantization.algorithms import AutoQuantizeGradientSearcher
from torch.nn import functional


def main(name: str, samples: int, output: Path) -> None:
    """Write the INT8 score of each linear."""
    case = load(name, samples)
    case.model.requires_grad_()
    rows = case.labels.reshape(len(case.values), -1)
    batches = [(case.values[i : i + 1], rows[i]) for i in range(len(rows))]
    AutoQuantizeGradientSearcher.quant_grouping_rules = []  # q, k and v each by itself
    paths = {id(module): path for path, module in case.linears().items()}
    _, state = mtq.auto_quantize(
        case.model,
        constraints={"effective_bits": 12.0},
        quantization_formats=[mtq.INT8_DEFAULT_CFG],
        data_loader=batches,
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=lambda logits, batch: functional.cross_entropy(logits, batch[1]),
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
    )
    scores = {}
    modules = dict(case.model.named_modules())
    for stats in state["candidate_stats"].values():
        for module, score in zip(stats["module_names"], [max(stats["scores"])], strict=False):
            path = paths.get(id(modules[module]))
            if path is not None:
                scores[path] = float(score)
    write_scores(output, scores)


if __name__ == "__main__":
    torch.manual_seed(0)
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

"""Times AIMET-ONNX on one model; runs in an environment of AIMET's own.

    python aimet_worker.py MODEL SAMPLES.npz NODES.json

One quantization simulation, calibrated once; then for each node the quantizers of what it reads are
switched on, all samples are run in AIMET's session, and the outputs compared: what a user of AIMET
does to score nodes. Its quantizers belong to tensors, so siblings that share an input see it
quantized too; that changes scores, not the time. Prints a line of JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import aimet_onnx
import numpy as np
import onnx
from aimet_onnx.quantsim import QuantizationSimModel


def main(model: str, samples: str, nodes: str) -> None:
    """Score `nodes` of `model` alone, on every sample."""
    logging.disable(logging.CRITICAL)
    names = json.loads(Path(nodes).read_text(encoding="utf-8"))
    with np.load(samples) as arrays:
        count = int(arrays["count"])
        keys = [name for name in arrays.files if name != "count"]
        feeds = [{key[2:]: arrays[key] for key in keys if key[0] == str(i)} for i in range(count)]
    start = time.perf_counter()
    proto = onnx.load(model)
    reads = {node.name: list(node.input) for node in proto.graph.node}
    simulation = QuantizationSimModel(
        proto, param_type="int8", activation_type="int8", providers=["CPUExecutionProvider"]
    )
    simulation.compute_encodings(lambda session: [session.run(None, feed) for feed in feeds])
    quantizers = simulation.qc_quantize_op_dict
    session = simulation.session
    output = next(o.name for o in session.get_outputs() if o.name.startswith("logits"))

    def run() -> list[np.ndarray]:
        return [session.run([output], feed)[0] for feed in feeds]

    for quantizer in quantizers.values():
        quantizer.enabled = False
    expected = run()
    ready = time.perf_counter()
    scores = {}
    for name in names:
        chosen = [quantizers[tensor] for tensor in reads[name] if tensor in quantizers]
        for quantizer in chosen:
            quantizer.enabled = True
        pairs = zip(run(), expected, strict=True)
        scores[name] = float(np.mean([np.square(a - b).mean() for a, b in pairs]))
        for quantizer in chosen:
            quantizer.enabled = False
    done = time.perf_counter()
    answer = {"setup": ready - start, "scoring": done - ready, "scores": scores}
    print(json.dumps(answer | {"version": aimet_onnx.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What a backward pass costs, by qgraph's rules or by onnx-ad's, in forwards of the same model.

    python benchmarks/reverse_modes.py MODEL.onnx --tokens 128 [--library onnx_ad]

MODEL is an exported decoder without cache (`benchmarks/decoder.py` writes the one of 27 M
parameters). The gradient of `inputs_embeds` from a random one of the logits, batch 1, one thread,
CPU time, median over rounds in which forward and backward pass take turns. `--fixed` declares batch
and tokens as numbers first, which onnx-ad (not a dependency) asks for.
"""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, shape_inference

from qgraph._graph.edit.fold import fold
from qgraph._graph.edit.prepare import prepare
from qgraph._graph.gradient import SEED, adjoint
from qgraph._graph.io.weights import with_weights
from qgraph._graph.tensors import Feed


def fixed(model: onnx.ModelProto, tokens: int) -> onnx.ModelProto:
    """Return `model` for one prompt of `tokens` tokens."""
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                number = 1 if dim.dim_param == "batch" else tokens
                dim.Clear()
                dim.dim_value = number
    del model.graph.value_info[:]
    return fold(shape_inference.infer_shapes(model, data_prop=True))


def backward(model: onnx.ModelProto, library: str, x: str, y: str) -> tuple[onnx.ModelProto, str]:
    """Return the model that gives the gradient of `x` alone, and the input that gives that of `y`;
    onnx-ad's has an axis of seeds behind the others.
    """
    if library == "qgraph":
        found = adjoint(model, outputs=[y], wanted=[x])
        made, gradient, seed = found.model, found.gradients[x], f"{SEED}{y}"
    else:
        import onnx_ad

        made = onnx_ad.reverse(model, inputs=[x], outputs=[y], layout="onnx")
        gradient, seed = made.graph.output[-1].name, made.graph.input[-1].name
    del made.graph.output[:]
    made.graph.output.append(helper.make_empty_tensor_value_info(gradient))
    return made, seed


def opened(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def seconds(session: ort.InferenceSession, feed: Feed) -> float:
    names = [value.name for value in session.get_inputs()]
    started = time.process_time()
    session.run(None, {name: feed[name] for name in names})
    return time.process_time() - started


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--library", type=click.Choice(["qgraph", "onnx_ad"]), default="qgraph")
@click.option("--tokens", default=128)
@click.option("--fixed/--dynamic", "is_fixed", default=True)
@click.option("--rounds", default=7)
def main(path: Path, library: str, tokens: int, is_fixed: bool, rounds: int) -> None:  # noqa: FBT001
    """Print what opening and running the backward pass of PATH costs."""
    model = with_weights(prepare(path).model)
    model = fixed(model, tokens) if is_fixed else model
    generator = np.random.default_rng(0)
    width = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    positions = np.tile(np.arange(tokens, dtype=np.int64), (3, 1, 1))
    feed: Feed = {
        "inputs_embeds": generator.standard_normal((1, tokens, width)).astype(np.float32),
        "attention_mask": np.ones((1, tokens), np.int64),
        "position_ids": positions,
    }
    forward, logits = opened(model), model.graph.output[0].name
    (y,) = forward.run([logits], {v.name: feed[v.name] for v in forward.get_inputs()})
    held, started = peak(), time.process_time()
    made, seed = backward(model, library, "inputs_embeds", logits)
    built = time.process_time() - started
    size = len(made.graph.node)
    started = time.process_time()
    whole = opened(made)
    opening = time.process_time() - started
    given = generator.standard_normal(y.shape).astype(np.float32)
    feed[seed] = given if library == "qgraph" else given[..., None]
    ratios = []
    for _ in range(rounds):
        plain = seconds(forward, feed)
        ratios.append(seconds(whole, feed) / plain)
    click.echo(f"nodes {len(model.graph.node):,} -> {size:,}, built in {built:.2f} s")
    click.echo(f"session opened in {opening:.2f} s, {peak() - held} MiB above the forward's peak")
    click.echo(f"forward and backward: {statistics.median(ratios):.2f} forwards")


if __name__ == "__main__":
    main()

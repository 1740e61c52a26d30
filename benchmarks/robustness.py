"""The chain on graphs nobody here wrote: how many pass, what fails and why.

Three sources: the light model-zoo graphs that the onnx package tests backends with, classifiers of
transformers with random weights, and encoders exported by optimum. Each goes through `sensitivity`
(one made-up sample), `profile` and `quantize`, as commands, in processes of their own.

    python benchmarks/robustness.py           # needs the export extra; some minutes
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parents[1]
SECONDS = 240
Made = tuple[str, str, Callable[[Path], Path]]


def light_models() -> Iterator[Made]:
    """Yield the graphs of ONNX's own backend tests."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    for path in sorted(folder.glob("*.onnx")):
        yield "onnx backend", path.stem.removeprefix("light_"), lambda _folder, path=path: path


def classifiers() -> Iterator[Made]:
    """Yield small classifiers of transformers, with random weights."""
    import transformers

    hf: Any = transformers
    tiny = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64}
    vit = {**tiny, "intermediate_size": 128, "image_size": 64, "patch_size": 16}
    configs = {
        "ResNet": hf.ResNetConfig(hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1]),
        "MobileNetV1": hf.MobileNetV1Config(image_size=64),
        "MobileNetV2": hf.MobileNetV2Config(image_size=64),
        "EfficientNet": hf.EfficientNetConfig(
            image_size=64, width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280
        ),
        "ConvNext": hf.ConvNextConfig(hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1]),
        "Swin": hf.SwinConfig(image_size=64, embed_dim=32, depths=[1, 1], num_heads=[2, 4]),
        "RegNet": hf.RegNetConfig(hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1]),
        "BEiT": hf.BeitConfig(**vit),
        "DeiT": hf.DeiTConfig(**vit, architectures=["DeiTForImageClassification"]),
        "ViT": hf.ViTConfig(**vit),
    }
    loader = hf.AutoModelForImageClassification
    for name, config in configs.items():
        if name == "RegNet":
            yield (
                "torch.onnx",
                name,
                lambda f, c=config, load=loader: _traced(load.from_config(c), f),
            )
        else:
            yield (
                "qgraph export",
                name,
                lambda f, c=config, load=loader: _exported(load.from_config(c), f),
            )


def encoders() -> Iterator[Made]:
    """Yield encoders of text, sound and images, exported by optimum."""
    import transformers

    hf: Any = transformers
    text = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 64, "vocab_size": 500}
    small = {"intermediate_size": 128, **text}
    whisper = hf.WhisperConfig(
        d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128, vocab_size=51865,
    )  # fmt: skip
    models = {
        "BERT": (lambda: hf.BertModel(hf.BertConfig(**small)), "feature-extraction"),
        "DistilBERT": (
            lambda: hf.DistilBertModel(
                hf.DistilBertConfig(n_layers=2, n_heads=2, dim=64, hidden_dim=128, vocab_size=500)
            ),
            "feature-extraction",
        ),
    }
    for name, (make, task) in models.items():
        yield (
            "optimum",
            name,
            lambda folder, make=make, task=task: _by_optimum(make(), task, folder),
        )
    yield "torch.onnx", "Whisper encoder", lambda folder: _whisper(hf.WhisperModel(whisper), folder)
    clip = hf.CLIPConfig(
        text_config=dict(small), vision_config={**small, "image_size": 64, "patch_size": 16}
    )
    for part in ("text", "vision"):
        yield (
            "torch.onnx",
            f"CLIP {part} tower",
            lambda folder, part=part: _tower(hf.CLIPModel(clip), part, folder),
        )


def _exported(model: Any, folder: Path) -> Path:
    import qgraph

    model.save_pretrained(folder / "checkpoint", safe_serialization=True)
    qgraph.export(folder / "checkpoint", folder / "exported", batch=1)
    return folder / "exported/model.onnx"


def _traced(model: Any, folder: Path) -> Path:
    import torch

    example = torch.rand(1, 3, 64, 64)
    torch.onnx.export(model.eval(), (example,), str(folder / "m.onnx"), dynamo=False)
    return folder / "m.onnx"


def _whisper(model: Any, folder: Path) -> Path:
    import torch

    example = torch.rand(1, 80, 3000)
    path = folder / "m.onnx"
    torch.onnx.export(model.get_encoder().eval(), (example,), str(path), dynamo=False)
    return path


def _tower(model: Any, part: str, folder: Path) -> Path:
    import torch

    features = model.get_text_features if part == "text" else model.get_image_features
    example = torch.ones(1, 16, dtype=torch.int64) if part == "text" else torch.rand(1, 3, 64, 64)

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any) -> Any:
            return features(x)

    torch.onnx.export(Tower().eval(), (example,), str(folder / "m.onnx"), dynamo=False)
    return folder / "m.onnx"


def _by_optimum(model: Any, task: str, folder: Path) -> Path:
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager

    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model=model, task=task, library_name="transformers"
    )
    export(model.eval(), constructor(model.config), folder / "m.onnx", opset=17)
    return folder / "m.onnx"


def try_one(model: Path, folder: Path) -> tuple[str, str]:
    """Return what became of a model: `passed` with figures, or the exit code with its message."""
    sensitivity, profiles = folder / "sensitivity.json", folder / "profiles.json"
    chain = (
        ["sensitivity", model, "--samples", "1", "--direction", "solo", "-o", sensitivity],
        ["profile", sensitivity, "-o", profiles],
        [
            "quantize",
            model,
            "--profiles",
            profiles,
            "--ranges",
            folder / "ranges.json",
            "-o",
            folder,
        ],
    )
    for words in chain:
        command = [sys.executable, "-m", "qgraph", *map(str, words), "--json", "--quiet"]
        try:
            done = subprocess.run(  # noqa: S603 - our own command
                command, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return f"{words[0]}: over {SECONDS} s", ""
        if done.returncode:
            return f"{words[0]}: exit code {done.returncode}", _message(done)
    report = json.loads(sensitivity.read_text())
    return "passed", f"{len(report['nodes'])} nodes scored, {len(report['keep'])} kept"


def _message(done: subprocess.CompletedProcess[str]) -> str:
    for text in (done.stdout, done.stderr):
        try:
            return str(json.loads(text)["error"])
        except (ValueError, KeyError, TypeError):
            continue
    return (done.stderr.strip().splitlines() or ["no message"])[-1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks/robustness.md")
    sources = {"light": light_models, "classifiers": classifiers, "encoders": encoders}
    parser.add_argument("--of", choices=sources, action="append", help="which; all where left out")
    options = parser.parse_args()
    rows = []
    chosen = options.of or list(sources)
    for source, name, make in (item for which in chosen for item in sources[which]()):
        with tempfile.TemporaryDirectory() as scratch:
            began = time.monotonic()
            try:
                model = make(Path(scratch))
            except Exception as error:  # an exporter raises whatever it meets
                outcome, detail = "not exported", str(error).strip().splitlines()[0][:120]
            else:
                outcome, detail = try_one(model, Path(scratch))
            rows.append((source, name, outcome, detail.replace("|", "\\|")[:160]))
            print(*rows[-1], f"{time.monotonic() - began:.0f} s", sep=" | ", flush=True)
    passed = sum(outcome == "passed" for _, _, outcome, _ in rows)
    lines = [
        "# Graphs nobody here wrote",
        "",
        "Written by `benchmarks/robustness.py`: sensitivity (one made-up sample), profile and"
        f" quantize on each. {passed} of {len(rows)} pass.",
        "",
        "| from | model | outcome | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

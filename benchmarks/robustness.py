"""The chain on classifiers and encoders of transformers: how many pass, what fails and why.

They have random weights, and are exported by qgraph, torch or optimum. Each goes through the chain
of `benchmarks/chain.py`. Writes docs/benchmarks/robustness.md.

    python benchmarks/robustness.py           # needs the export extra; some minutes; Ctrl-C ends it
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chain import PASSES, SECONDS, try_chain
from setting import setting

ROOT = Path(__file__).parents[1]
Made = tuple[str, str, Callable[[Path], Path]]


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
        source, write = (
            ("torch.onnx", _traced) if name == "RegNet" else ("qgraph export", _exported)
        )
        yield source, name, lambda f, c=config, w=write: w(loader.from_config(c), f)
    yield "torch.onnx", "DenseNet", lambda f: _traced(_densenet(), f)


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


def _densenet(growth: int = 16, blocks: tuple[int, ...] = (4, 6, 8)) -> Any:
    """Return a DenseNet (Huang et al. 2017): every layer reads all those before it in its block."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            steps = [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4 * growth, 1)]
            steps += [nn.BatchNorm2d(4 * growth), nn.ReLU()]
            self.steps = nn.Sequential(*steps, nn.Conv2d(4 * growth, growth, 3, padding=1))

        def forward(self, x: Any) -> Any:
            return torch.cat([x, self.steps(x)], 1)

    channels = 2 * growth
    stages: list[nn.Module] = [nn.Conv2d(3, channels, 7, stride=2, padding=3), nn.MaxPool2d(2)]
    for count in blocks:
        stages += [Layer(channels + growth * index) for index in range(count)]
        channels = (channels + growth * count) // 2
        stages += [nn.Conv2d(2 * channels, channels, 1), nn.AvgPool2d(2)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


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


SOURCES = {"classifiers": classifiers, "encoders": encoders}


def attempt(made: Made) -> list[str]:
    """Return the row of one model."""
    source, name, make = made
    with tempfile.TemporaryDirectory() as scratch:
        try:
            model = make(Path(scratch))
        except Exception as error:  # an exporter raises whatever it meets
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return [source, name, "not exported", lines[0].replace("|", "\\|")[:160]]
        return [source, name, *try_chain(model, Path(scratch)).cells()]


def page(rows: list[list[str]]) -> str:
    """Return the page of results."""
    passed = sum(row[2] == PASSES for row in rows)
    return "\n".join(
        [
            "# Classifiers and encoders of transformers",
            "",
            "Written by `benchmarks/robustness.py`. Models with random weights go through"
            " `sensitivity` (one made-up sample, solo scores), `profile`, `quantize`, and `lint` of"
            f" profile D. Each command runs in its own process, within {SECONDS} s. {passed} of"
            f" {len(rows)} pass. Other pages do the same for [detectors](detectors.md), [ONNX's own"
            " graphs](backend.md), [torch models](torch-models.md), [newer"
            " architectures](architectures.md) and [other exporters](exporters.md).",
            "",
            "| from | model | outcome | |",
            "|---|---|---|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            setting("optimum-onnx"),
        ]
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/benchmarks/robustness.md")
    parser.add_argument("--of", choices=SOURCES, action="append", help="which; all where left out")
    options = parser.parse_args()
    todo = [made for which in options.of or SOURCES for made in SOURCES[which]()]
    rows: list[list[str]] = []
    try:
        for made in todo:
            rows.append(attempt(made))
            print(*rows[-1], sep=" | ", flush=True)
    except KeyboardInterrupt:  # what was found is worth its page
        rows += [[source, name, "not run", ""] for source, name, _ in todo[len(rows) :]]
    options.output.write_text(page(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

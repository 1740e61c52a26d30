"""The commands in working order: what each does, an example, and where it is, unloaded until asked.

The help of `qgraph` and the completion of its words must not load a runtime.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Entry:
    """`module`: under `_cli.commands`, where it is not the command's own name."""

    name: str
    summary: str
    example: str
    module: str = ""

    def load(self) -> click.Command:
        """Return the command, with its example below its options."""
        module = import_module(f"qgraph._cli.commands.{self.module or self.name}")
        command: click.Command = getattr(module, self.name)
        command.epilog = f"\b\nExample:\n  {self.example}"
        return command


ENTRIES = (
    Entry("export", "Export a checkpoint to ONNX, checked against PyTorch.",
          "qgraph export my-checkpoint -o work"),
    Entry("sensitivity", "Score how much quantizing each node hurts the outputs.",
          "qgraph sensitivity work/model.onnx --data captions.txt -o work/sensitivity.json"),
    Entry("profile", "Cut profiles A to D from the scores.",
          "qgraph profile work/sensitivity.json -o work/profiles.json"),
    Entry("quantize", "Write one Q/DQ model per profile.",
          "qgraph quantize work/model.onnx --profiles work/profiles.json --ranges work/ranges.json"
          " -o work"),
    Entry("evaluate", "Measure float and quantized models side by side.",
          "qgraph evaluate work/model.onnx work/C.onnx work/D.onnx --data heldout.txt"
          " -o work/evaluation.json"),
    Entry("report", "Make a page (HTML), and Markdown, of a run folder.", "qgraph report work"),
    Entry("compare", "Compare rankings or evaluations; a gate for CI.",
          "qgraph compare main.json branch.json --fail-if 'loss>+1%'"),
    Entry("lint", "Say what TensorRT would refuse, or run slower or in float.",
          "qgraph lint work/C.onnx"),
    Entry("handoff", "Bundle a Q/DQ model for TensorRT.",
          "qgraph handoff work/C.onnx --source work/model.onnx --data heldout.txt -o work/bundle"),
    Entry("verify", "Check that an output of qgraph is complete and unchanged.",
          "qgraph verify work/bundle"),
    Entry("run", "Run the whole chain of a recipe.", "qgraph run models/qwen2_5_vl_tiny.toml"),
    Entry("demo", "Run the chain on the model that ships with the source.", "qgraph demo", "run"),
)  # fmt: skip


class _Loaded(MutableMapping[str, click.Command]):
    """Name → command, imported when it is asked for."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in ENTRIES}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            self._loaded[name] = self._entries[name].load()
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Commands(click.Group):
    """The group of all commands, in the order of `ENTRIES`."""

    def __init__(self, **given: object) -> None:
        super().__init__(**given)  # type: ignore[arg-type]
        self.commands = _Loaded()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in working order."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write name and summary of each, none of them loaded."""
        with formatter.section("Commands"):
            formatter.write_dl([(entry.name, entry.summary) for entry in ENTRIES])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so, and the group's own options; no command is loaded."""
        found = [entry for entry in ENTRIES if entry.name.startswith(incomplete)]
        names = [CompletionItem(entry.name, help=entry.summary) for entry in found]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

"""What a model family must know how to do, and what it gets to see.

A family turns raw data into feeds, names the outputs that matter, says which nodes stay float and
why, measures its own task, and exports its checkpoints. It imports with the core alone; whatever
needs torch is imported where it is used.

A package adds a family with an entry point of the group `qgraph.families` (`_exporters.registry`);
`_exporters.generic.family.GenericFamily` is a base to start from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import onnx
from pydantic import Field

from qgraph._exporters.manifest import Manifest
from qgraph._exporters.tasks import Task
from qgraph._graph.edit.nodes import QuantizableNode
from qgraph._graph.flags import Flag
from qgraph._graph.io.documents import Given
from qgraph._graph.progress import Progress
from qgraph._graph.run.session import Session
from qgraph._graph.tensors import Feed, TensorSpec
from qgraph._metrics import Split


@dataclass(frozen=True, slots=True, eq=False)
class ModelView:
    """A model as a family sees it. `model`: prepared (named, folded), with its weights.
    `preprocess`: how pictures become its inputs, where a person said so.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    manifest: Manifest | None
    model: onnx.ModelProto
    preprocess: str | None = None


Pixels = Annotated[int, Field(ge=1)]


class ExportOptions(Given):
    """The options of `qgraph export`. None: the family chooses.

    `data`: images to find what overflows. `batch`: the fixed batch size, None for any.
    `image_size`: height and width in pixels. `trust_pickle`: whether a checkpoint may be opened if
    this can run code.
    """

    part: Annotated[
        str, Flag("Which part of a multimodal model.", choices=lambda: ("language", "vision"))
    ] = "language"
    dtype: Annotated[str, Flag("Float type of the graph.", choices=lambda: ("fp32", "fp16"))] = (
        "fp32"
    )
    with_past: Annotated[bool, Flag("With the KV cache or without.", off="no-past")] = True
    opset: Annotated[int | None, Flag("Opset of the graph  [default: 21]")] = None
    image_size: Annotated[
        tuple[Pixels, Pixels] | None,
        Flag(
            "Size of images, in pixels (vision).  [default: the largest square up to 448;"
            " detectors: 640x640]",
            metavar="HxW",
            kind="image",
        ),
    ] = None
    data: Annotated[tuple[Path, ...], Flag("Images to find what overflows in fp16 (vision).")] = ()
    batch: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Flag("Fixed batch size (classifiers, detectors).  [default: any size; detectors: 1]"),
    ] = None
    trust_pickle: Annotated[
        bool,
        Flag(
            "Let Ultralytics open a .pt checkpoint or a .yaml file. Both can run code, so use it"
            " only for files that you trust."
        ),
    ] = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """`answer`: what would be right, if anything is. `image`: its path beside the file; `picture`:
    the image itself as a data URI, where it is small.
    """

    text: str
    answer: str | None = None
    image: str | None = None
    picture: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a variant said: token ids, and the text up to and with each of them."""

    tokens: tuple[int, ...]
    texts: tuple[str, ...]


class Suite(Protocol):
    """Fixed prompts that every variant answers."""

    @property
    def title(self) -> str:
        """Return what a report says they are."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Return the prompts."""

    def say(self, name: str, session: Session, progress: Progress) -> list[Said]:
        """Return what a variant says to each prompt."""


@runtime_checkable
class Converses(Protocol):
    """A family whose models can be asked something."""

    def suite(self, view: ModelView, path: Path | None) -> Suite | None:
        """Return the prompts in a file, ready to be fed; without one the family's own, as far as
        this model can be asked them here, and None where it can be asked none.
        """


@runtime_checkable
class NamesFiles(Protocol):
    """A family whose data files name others, such as images."""

    def files_named_in(self, data: Path) -> Sequence[Path]:
        """Return the files that `data` names; none where it is no data file of the family's.

        Raises:
            InputError: it cannot be read, or a file it names is not there.
        """


class Family(Protocol):
    """A model family. Nothing but `export` writes or changes anything."""

    @property
    def name(self) -> str:
        """Return the family's name, as `qgraph.json` has it."""

    @property
    def fuses_siblings(self) -> bool:
        """Return whether q/k/v and gate/up belong together by default."""

    def gives_logits(self, view: ModelView) -> bool:
        """Return whether the scored outputs are logits, so that KL and top-1 mean something."""

    def recognizes(self, view: ModelView) -> bool:
        """Return whether this is one of the family's models."""

    def feeds(self, view: ModelView, data: Path, limit: int | None) -> Sequence[Feed]:
        """Return at most `limit` feeds made from raw data (`.txt`, images …).

        Better made when asked for than held: each is asked for once.
        """

    def complete(self, view: ModelView, feed: Feed) -> Feed:
        """Return `feed` with inputs added that a user may leave out."""

    def scored_outputs(self, view: ModelView) -> tuple[str, ...]:
        """Return the outputs whose error matters."""

    def parts(self, view: ModelView) -> Split | None:
        """Return how an output falls into parts, where it holds numbers of different kinds.

        Nodes are then ranked by the error relative to each part, to which all count alike.
        """

    def keep(self, model: onnx.ModelProto, node: QuantizableNode) -> str | None:
        """Return why `node` stays float by default, or None."""

    def task(self, view: ModelView, name: str | None, data: Sequence[Path], limit: int) -> Task:
        """Return what variants are measured on."""

    def exports(self, source: Path) -> bool:
        """Return whether `source` is a checkpoint that `export` takes."""

    def export(
        self, source: Path, folder: Path, options: ExportOptions, progress: Progress
    ) -> Manifest:
        """Write `source` as ONNX to `folder` and return its manifest."""

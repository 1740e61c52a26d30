"""A recipe's whole chain: what is done, what is left.

A stage whose record still holds is not repeated, so an interrupted run goes on where it stopped,
and a changed option repeats just what depends on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qgraph._exporters.data_files import files_named_in
from qgraph._exporters.manifest import SANITY, companions
from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import Document, read_document, write_document
from qgraph._graph.io.external import external_files
from qgraph._graph.io.files import write_bytes, write_text
from qgraph._graph.io.models import read_model, read_on_disk, write_model
from qgraph._graph.progress import Progress
from qgraph._graph.run.provider import Provider, require_provider
from qgraph._quantize.profiles import Profiles
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.scoring.journal import remove_journal
from qgraph._steps import api
from qgraph._steps.half import AsHalf, as_half
from qgraph._steps.locking import locked
from qgraph._steps.quantize import file_stem, write_quantized
from qgraph._steps.recipe import Recipe
from qgraph._steps.stages import RECORD, Stage, digest_of, ensure, hashes_of

FLOAT = "model.onnx"
_RESERVED = {"model", "float", "embed_tokens", "shared", "budget"}


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    provider: Provider | None,
    fresh: bool,
    progress: Progress,
) -> Path:
    """Carry out every stage that is not done yet; return the run folder.

    Raises:
        QGraphError: a stage failed; the stages before it stay done.
    """
    if provider is not None:
        recipe = recipe.model_copy(update={"provider": provider})
    require_provider(recipe.provider)
    if recipe.model is not None and recipe.model.resolve() == (folder / FLOAT).resolve():
        raise UsageError(
            "the run would write over the model it starts from",
            where=str(recipe.model),
            hint="Choose another run folder with -o.",
        )
    reserved = sorted(_RESERVED & recipe.profile.cuts.keys())
    if reserved:
        raise UsageError(f"a profile cannot be called {reserved[0]!r}, as another file is")
    _require_data(recipe)
    with locked(folder):
        if fresh:
            (folder / RECORD).unlink(missing_ok=True)
        chain = _Chain(recipe, folder, progress, fresh=fresh)
        for stage in chain.stages():
            ensure(stage, folder)
    return folder


def _require_data(recipe: Recipe) -> None:
    """Check before any work what the last stage would only find after all of it."""
    scored, evaluated = recipe.sensitivity.data, recipe.evaluate.data
    if not (scored or evaluated):
        raise UsageError(
            "the recipe names no data, and variants cannot be evaluated without",
            where=recipe.name,
            hint="Give data = [...] under [evaluate], and under [sensitivity] to calibrate with.",
        )
    for path in (*scored, *evaluated):
        if not path.exists():
            raise InputError("no such data", where=str(path), hint="Check the recipe.")


def _data_of(model: Path) -> list[Path]:
    """Return the data files of a model file."""
    return external_files(read_model(model, weights=False), model.parent)


def _with_images(data: Iterable[Path]) -> list[Path]:
    """Return data files with the images that they name."""
    return [named for path in data for named in (path, *files_named_in(path))]


class _Chain:
    """The stages of one recipe in one folder."""

    def __init__(self, recipe: Recipe, folder: Path, progress: Progress, *, fresh: bool) -> None:
        self._recipe = recipe
        self._folder = folder
        self._fresh = fresh
        self._progress = progress

    def stages(self) -> list[Stage]:
        """Return the stages in order."""
        recipe, part = self._recipe, self._recipe.sensitivity
        common = [recipe.scheme.model_dump(mode="json"), str(recipe.provider)]
        asked = part.model_dump(mode="json", exclude={"data"})
        return [
            Stage("export", self._origin, self._export),
            Stage(
                "ranges",
                lambda: [common, asked, self._made(FLOAT), hashes_of(_with_images(part.data))],
                self._ranges,
            ),
            Stage(
                "sensitivity",
                self._sensitivity_inputs,
                self._sensitivity,
            ),
            Stage(
                "profile",
                lambda: [
                    recipe.profile.model_dump(mode="json"),
                    self._made("sensitivity.json", "ranges.json", FLOAT),
                    hashes_of(_with_images(part.data)) if recipe.profile.budget else [],
                ],
                self._profile,
            ),
            Stage(
                "quantize",
                self._quantize_inputs,
                self._quantize,
            ),
            Stage("evaluate", self._evaluation_inputs, self._evaluate),
            Stage(
                "report",
                lambda: self._made("evaluation.json", "sensitivity.json", "profiles.json"),
                self._report,
            ),
        ]

    def _sensitivity_inputs(self) -> Any:
        recipe, part = self._recipe, self._recipe.sensitivity
        asked = part.model_dump(mode="json", exclude={"data"})
        scheme = recipe.scheme.model_dump(mode="json")
        made = self._made("ranges.json")
        return [scheme, str(recipe.provider), asked, made, hashes_of(_with_images(part.data))]

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _made(self, *names: str) -> list[list[str]]:
        return hashes_of(self._path(name) for name in names)

    def _origin(self) -> Any:
        recipe = self._recipe
        options = recipe.export.model_dump(mode="json")
        if recipe.model is None:
            return [options, hashes_of([recipe.source] if recipe.source else [])]
        model = recipe.model
        return [options, hashes_of([model, *_data_of(model), *companions(model)])]

    def _export(self) -> list[Path]:
        recipe = self._recipe
        if recipe.source is not None:
            options = recipe.export.model_dump()
            api.export(recipe.source, self._folder, progress=self._progress, **options)
            made = self._path(FLOAT)
            return [made, *_data_of(made), *companions(made)]
        assert recipe.model is not None  # noqa: S101 - the recipe has one of the two
        write_model(read_on_disk(recipe.model), self._path(FLOAT))
        for path in companions(recipe.model):
            write_bytes(self._folder / path.relative_to(recipe.model.parent), path.read_bytes())
        made = self._path(FLOAT)
        return [made, *_data_of(made), *companions(made)]

    def _ranges(self) -> list[Path]:
        part = self._recipe.sensitivity
        ranges = api.calibrate(
            self._path(FLOAT),
            scheme=self._recipe.scheme,
            include=part.include,
            exclude=part.exclude,
            **self._calibrating(),
        )
        return [self._write("ranges.json", ranges)]

    def _sensitivity(self) -> list[Path]:
        options: dict[str, Any] = {
            name: getattr(self._recipe.sensitivity, name)
            for name in type(self._recipe.sensitivity).model_fields
        }
        journal = self._path(f"sensitivity-{digest_of(self._sensitivity_inputs())[:12]}.journal")
        report, _ = api.sensitivity(
            self._path(FLOAT),
            ranges=self._path("ranges.json"),
            scheme=self._recipe.scheme,
            journal=journal,
            fresh=self._fresh,
            provider=self._recipe.provider,
            progress=self._progress,
            **options,
        )
        write_text(self._path("sensitivity.md"), to_markdown(report))
        written = [self._write("sensitivity.json", report), self._path("sensitivity.md")]
        # those of other options, too: a run that was interrupted before the recipe was changed
        for left in self._folder.glob("sensitivity-*.journal"):
            remove_journal(left)
        return written

    def _profile(self) -> list[Path]:
        part = self._recipe.profile
        source = self._path("sensitivity.json")
        measured: dict[str, Any] = {}
        if part.budget is not None:
            measured = {
                "budget": part.budget,
                "model": self._path(FLOAT),
                "data": self._recipe.sensitivity.data,
                "ranges": self._path("ranges.json"),
                "provider": self._recipe.provider,
                "progress": self._progress,
            }
        made = api.profile(source, cuts=part.cuts, by=part.by, top_k=part.top_k, **measured)
        return [self._write("profiles.json", made)]

    def _quantize_inputs(self) -> Any:
        made = self._made("profiles.json", "ranges.json", FLOAT)
        if self._recipe.quantize.dtype is None:
            return made
        part, provider = self._recipe.sensitivity, str(self._recipe.provider)
        asked = [self._recipe.quantize.dtype, part.samples, part.seed, provider]
        return [made, asked, hashes_of(_with_images(part.data))]

    def _quantize(self) -> list[Path]:
        write_quantized(
            self._path(FLOAT),
            self._path("profiles.json"),
            self._path("ranges.json"),
            self._folder,
            half=self._half(),
            progress=self._progress,
        )
        return self._variant_files()

    def _half(self) -> AsHalf | None:
        """Return what converts the model to fp16, where the recipe asks for that."""
        if self._recipe.quantize.dtype is None:
            return None
        return as_half(self._path(FLOAT), **self._calibrating())

    def _calibrating(self) -> dict[str, Any]:
        """Return the data that ranges and overflow are looked for on, and where that runs."""
        part = self._recipe.sensitivity
        return {
            "data": part.data,
            "samples": part.samples,
            "seed": part.seed,
            "provider": self._recipe.provider,
            "progress": self._progress,
        }

    def _variant_files(self) -> list[Path]:
        """Return the models that were quantized, or converted, with their data files."""
        return [file for path in self._variants() for file in (path, *_data_of(path))]

    def _variants(self) -> list[Path]:
        profiles = read_document(self._path("profiles.json"), Profiles).profiles
        dtype = self._recipe.quantize.dtype
        names: list[str] = [dtype] if dtype is not None else []
        names += [file_stem(item.name, dtype) for item in profiles]
        return [self._path(f"{name}.onnx") for name in names]

    def _evaluation_inputs(self) -> Any:
        part, models = self._recipe.evaluate, [FLOAT, *(path.name for path in self._variants())]
        options = part.model_dump(mode="json", exclude={"data", "sanity"})
        beside = self._path(SANITY)
        prompts = [part.sanity] if part.sanity else [beside] if beside.is_file() else []
        return [
            options,
            str(self._recipe.provider),
            hashes_of(_with_images([*self._data(), *prompts])),
            self._made("profiles.json", *models),
        ]

    def _data(self) -> Sequence[Path]:
        return self._recipe.evaluate.data or self._recipe.sensitivity.data

    def _evaluate(self) -> list[Path]:
        part = self._recipe.evaluate
        evaluation = api.evaluate(
            [self._path(FLOAT), *self._variants()],
            data=self._data(),
            task=part.task,
            samples=part.samples,
            profiles=self._path("profiles.json"),
            sanity=part.sanity,
            provider=self._recipe.provider,
            progress=self._progress,
        )
        return [self._write("evaluation.json", evaluation)]

    def _report(self) -> list[Path]:
        page, text = api.report(self._folder)
        write_text(self._path("report.html"), page)
        write_text(self._path("report.md"), text)
        return [self._path("report.html"), self._path("report.md")]

    def _write(self, name: str, document: Document) -> Path:
        write_document(self._path(name), document)
        return self._path(name)

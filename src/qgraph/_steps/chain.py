"""The stages of a recipe: what each depends on, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qgraph._exporters.belongings import companions
from qgraph._exporters.manifest import SANITY
from qgraph._exporters.registry import files_named_in
from qgraph._graph.errors import UsageError
from qgraph._graph.io.documents import Document, read_document, write_document
from qgraph._graph.io.external import external_files
from qgraph._graph.io.files import write_bytes, write_text
from qgraph._graph.io.models import read_model, read_on_disk, write_model
from qgraph._graph.run.runtime import Runtime
from qgraph._quantize.profiles import Profiles
from qgraph._quantize.ranges import Ranges
from qgraph._sensitivity.engines.registry import engine_of
from qgraph._sensitivity.explain.markdown import to_markdown
from qgraph._sensitivity.scoring.fingerprint import digest_of
from qgraph._sensitivity.scoring.journal import remove_journal
from qgraph._steps.calibrate import OF_SEARCH, calibrate
from qgraph._steps.evaluate import evaluate, require_evaluable
from qgraph._steps.export import export
from qgraph._steps.making import file_stem
from qgraph._steps.model import Model
from qgraph._steps.options import (
    CalibrateOptions,
    EvaluateOptions,
    ProfileOptions,
    QuantizeOptions,
    SensitivityOptions,
)
from qgraph._steps.profile import profile, require_profilable
from qgraph._steps.quantize import write_quantized
from qgraph._steps.recipe import Recipe
from qgraph._steps.report import can_draw, report, summary
from qgraph._steps.sensitivity import require_scorable, sensitivity
from qgraph._steps.stages import RECORD, Stage, hashes_of

FLOAT = "model.onnx"
WRITTEN = {
    *(RECORD, "ranges.json", "sensitivity.json", "sensitivity.md", "profiles.json"),
    *("evaluation.json", "report.html", "report.md", FLOAT),
}
"""Files of the stages after the first: what comes with a model must not be called so."""


def _data_of(model: Path) -> list[Path]:
    """Return the data files of a model file."""
    return external_files(read_model(model, weights=False), model.parent)


def _with_images(data: Iterable[Path]) -> list[Path]:
    """Return data files with the images that they name."""
    return [named for path in data for named in (path, *files_named_in(path))]


class RecipeChain:
    """The stages of one recipe in one folder."""

    def __init__(self, recipe: Recipe, folder: Path, runtime: Runtime, *, fresh: bool) -> None:
        self._recipe = recipe
        self._folder = folder
        self._fresh = fresh
        self._runtime = runtime
        self._opened: Model | None = None

    def stages(self) -> list[Stage]:
        """Return the stages in order."""
        return [
            Stage("export", self._origin, self._export),
            Stage("ranges", self._ranges_inputs, self._ranges, self._has_time_to_search),
            Stage("sensitivity", self._sensitivity_inputs, self._sensitivity),
            Stage("profile", self._profile_inputs, self._profile),
            Stage("quantize", self._quantize_inputs, self._quantize),
            Stage("evaluate", self._evaluation_inputs, self._evaluate),
            Stage("report", self._report_inputs, self._report),
        ]

    def _ranges_inputs(self) -> Any:
        common = [self._recipe.scheme.model_dump(mode="json"), str(self._recipe.provider)]
        return [common, self._asked(), self._made(FLOAT), self._samples()]

    def _has_time_to_search(self) -> bool:
        """Return whether the search for ranges was cut short, and there is more time for it."""
        found = read_document(self._path("ranges.json"), Ranges)
        return found.goes_on(self._recipe.sensitivity.time_budget)

    def _sensitivity_inputs(self) -> Any:
        return [self._scored_inputs(), self._recipe.sensitivity.time_budget]

    def _scored_inputs(self) -> Any:
        """Return what scores depend on."""
        scheme, provider = self._recipe.scheme.model_dump(mode="json"), str(self._recipe.provider)
        return [scheme, provider, self._asked(), self._made("ranges.json"), self._samples()]

    def _profile_inputs(self) -> Any:
        options = self._recipe.profile
        made = self._made("sensitivity.json", "ranges.json", FLOAT)
        return [options.model_dump(mode="json"), made, self._samples() if options.budget else []]

    def _report_inputs(self) -> Any:
        return [self._made("evaluation.json", "sensitivity.json", "profiles.json"), can_draw()]

    def _asked(self) -> Any:
        """Return the options of [sensitivity], however much time there is for them."""
        asked = self._recipe.sensitivity.model_dump(mode="json", exclude={"data"})
        return {**asked, "time_budget": None}

    def _samples(self) -> list[list[str]]:
        """Return what the data of [sensitivity] is."""
        return hashes_of(_with_images(self._recipe.sensitivity.data))

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
            asked, progress = recipe.export, self._runtime.progress
            export(
                recipe.source, self._folder, family=asked.family, options=asked, progress=progress
            )
        elif recipe.model is not None:
            write_model(read_on_disk(recipe.model), self._path(FLOAT))
            self._take_along(recipe.model)
        made = self._path(FLOAT)
        return [made, *_data_of(made), *companions(made)]

    def _take_along(self, model: Path) -> None:
        """Put what belongs to a model beside the run's own."""
        for path in companions(model):
            name = path.relative_to(model.parent).as_posix()
            if name in WRITTEN or name.endswith(".journal"):
                raise UsageError(
                    f"the manifest names {name!r}, which the run writes itself",
                    where=str(model.parent),
                )
            write_bytes(self._folder / name, path.read_bytes())

    def _model(self) -> Model:
        """Return the float model, opened once for all stages, with which the options go."""
        if self._opened is None:
            opened = Model.open(self._path(FLOAT))
            self._require_fitting(opened)
            self._opened = opened
        return self._opened

    def _require_fitting(self, model: Model) -> None:
        """Check what a later stage would refuse only after the work of those before it."""
        asked, options = self._scoring(), self._recipe.profile
        along = model.along(asked.batch_axis, asked.preprocess, asked.data)
        require_scorable(along, asked, None, self._runtime)
        if options.budget is not None:
            as_scored = self._as_scored(options)
            require_profilable(model, options.model_copy(update=as_scored))
        require_evaluable(model, self._evaluation())

    def _scoring(self) -> SensitivityOptions:
        return self._recipe.sensitivity.model_copy(update={"scheme": self._recipe.scheme})

    def _ranges(self) -> list[Path]:
        asked = self._recipe.sensitivity
        options = CalibrateOptions(
            **{name: getattr(asked, name) for name in CalibrateOptions.model_fields}
        ).model_copy(update={"scheme": self._recipe.scheme})
        made = calibrate(
            self._model(),
            journal=self._journal("ranges", self._ranges_inputs()),
            fresh=self._fresh,
            options=options,
            runtime=self._runtime,
        )
        if made.searched is not None and made.searched.cut_short:
            # the journal stays for a run with more time
            return [self._write("ranges.json", made)]
        return [self._finished("ranges", made)]

    def _sensitivity(self) -> list[Path]:
        asked = self._scoring()
        engine = engine_of(asked.engine, self._recipe.scheme.name)
        if asked.time_budget is not None and not engine.calibrates:
            rest = (1 - OF_SEARCH) * asked.time_budget
            asked = asked.model_copy(update={"time_budget": rest})
        report, _ = sensitivity(
            self._model(),
            ranges=None if engine.calibrates else self._path("ranges.json"),
            journal=self._journal("sensitivity", self._scored_inputs()),
            fresh=self._fresh,
            options=asked,
            runtime=self._runtime,
        )
        write_text(self._path("sensitivity.md"), to_markdown(report))
        if report.run.complete:
            return [self._finished("sensitivity", report), self._path("sensitivity.md")]
        # the journal stays for a run with more time
        return [self._write("sensitivity.json", report), self._path("sensitivity.md")]

    def _profile(self) -> list[Path]:
        options, on = self._recipe.profile, None
        if options.budget is not None:
            options = options.model_copy(update=self._as_scored(options))
            on = self._model()
        made = profile(
            self._path("sensitivity.json"),
            model=on,
            ranges=None if on is None else self._path("ranges.json"),
            options=options,
            runtime=self._runtime,
        )
        return [self._write("profiles.json", made)]

    def _quantize_inputs(self) -> Any:
        made = self._made("profiles.json", "ranges.json", FLOAT)
        options = self._recipe.quantize
        if options.dtype is None:
            return made
        part, provider = self._recipe.sensitivity, str(self._recipe.provider)
        how = self._as_scored(options)
        asked = [options.dtype, part.samples, part.seed, provider]
        return [made, [*asked, list(how["batch_axis"]), how["preprocess"]], self._samples()]

    def _quantize(self) -> list[Path]:
        part = self._recipe.sensitivity
        asked = self._recipe.quantize
        update = {"samples": part.samples, "seed": part.seed, **self._as_scored(asked)}
        write_quantized(
            self._model(),
            self._path("profiles.json"),
            self._path("ranges.json"),
            self._folder,
            options=asked.model_copy(update=update),
            runtime=self._runtime,
        )
        return [file for path in self._variants() for file in (path, *_data_of(path))]

    def _variants(self) -> list[Path]:
        """Return the models that were quantized, or converted."""
        profiles = read_document(self._path("profiles.json"), Profiles).profiles
        dtype = self._recipe.quantize.dtype
        names: list[str] = [dtype] if dtype is not None else []
        names += [file_stem(item.name, dtype) for item in profiles]
        return [self._path(f"{name}.onnx") for name in names]

    def _evaluation_inputs(self) -> Any:
        part, models = self._evaluation(), [FLOAT, *(path.name for path in self._variants())]
        options = part.model_dump(mode="json", exclude={"data", "sanity"})
        beside = self._path(SANITY)
        silent = part.sanity is False
        usual = [beside] if beside.is_file() and not silent else []
        prompts = [part.sanity] if part.sanity else usual
        data = hashes_of(_with_images([*part.data, *prompts]))
        made = self._made("profiles.json", *models)
        return [options, silent, str(self._recipe.provider), data, made]

    def _evaluation(self) -> EvaluateOptions:
        asked = self._recipe.evaluate
        return asked if asked.data else asked.model_copy(update=self._as_scored(asked))

    def _as_scored(
        self, asked: ProfileOptions | QuantizeOptions | EvaluateOptions
    ) -> dict[str, Any]:
        """Return the data of [sensitivity], and how it is read where `asked` does not say."""
        part = self._recipe.sensitivity
        return {
            "data": part.data,
            "batch_axis": asked.batch_axis or part.batch_axis,
            "preprocess": asked.preprocess or part.preprocess,
        }

    def _evaluate(self) -> list[Path]:
        made = evaluate(
            [self._model(), *self._variants()],
            profiles=self._path("profiles.json"),
            journal=self._journal("evaluation", self._evaluation_inputs()),
            fresh=self._fresh,
            options=self._evaluation(),
            runtime=self._runtime,
        )
        return [self._finished("evaluation", made)]

    def _journal(self, name: str, inputs: Any) -> Path:
        return self._path(f"{name}-{digest_of(inputs)[:12]}.journal")

    def _finished(self, name: str, document: Document) -> Path:
        """Write what a stage with a journal made, which is not needed any more."""
        written = self._write(f"{name}.json", document)
        # those of other options, too: a run that was interrupted before the recipe was changed
        for left in self._folder.glob(f"{name}-*.journal"):
            remove_journal(left)
        return written

    def _report(self) -> list[Path]:
        if not can_draw():
            write_text(self._path("report.md"), summary(self._folder))
            return [self._path("report.md")]
        made = dict(zip(("report.html", "report.md"), report(self._folder), strict=True))
        for name, text in made.items():
            write_text(self._path(name), text)
        return [self._path(name) for name in made]

    def _write(self, name: str, document: Document) -> Path:
        write_document(self._path(name), document)
        return self._path(name)

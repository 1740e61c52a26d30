"""Recipes: the whole chain's options in one TOML file. Paths in it are relative to the file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from qgraph._exporters.family import ExportOptions
from qgraph._graph.errors import UsageError, nearest
from qgraph._graph.io.documents import Part, message_of
from qgraph._graph.io.files import require_file
from qgraph._graph.run.session import Provider
from qgraph._quantize.scheme import RANGES_AND_SMOOTHING, Scheme, SchemeName
from qgraph._steps.options import (
    EvaluateOptions,
    ProfileOptions,
    QuantizeOptions,
    SensitivityOptions,
)
from qgraph._steps.work import engine_and_scheme

_LARGEST = 32 << 10
"""Bytes of a recipe. The time that tomllib takes for a dotted name grows with its square."""


class ExportPart(ExportOptions):
    """`[export]`: options of `qgraph export`."""

    family: str = "auto"

    @model_validator(mode="after")
    def _trusts_nothing(self) -> ExportPart:
        if self.trust_pickle:
            raise ValueError(
                "a recipe cannot trust a checkpoint: that is for who runs the command. Export it"
                " with qgraph export --trust-pickle and name the model"
            )
        return self


class RunPart(Part):
    """`[run]`: where the work is done; no result depends on it. `ray`: as `--ray` takes it;
    `ray_ship`: whether nodes are sent model and samples.
    """

    ray: str | None = None
    ray_ship: bool = False


class Recipe(Part):
    """Either `source`, a checkpoint to export, or `model`, an ONNX file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    source: Path | None = None
    model: Path | None = None
    provider: Provider = Provider.CPU
    run: RunPart = RunPart()
    scheme: Scheme = Scheme()
    export: ExportPart = ExportPart()
    sensitivity: SensitivityOptions = SensitivityOptions()
    profile: ProfileOptions = ProfileOptions()
    quantize: QuantizeOptions = QuantizeOptions()
    evaluate: EvaluateOptions = EvaluateOptions()

    @model_validator(mode="before")
    @classmethod
    def _default_scheme(cls, given: Any) -> Any:
        """Fill in how ranges are found where [scheme] does not say."""
        if not isinstance(given, Mapping):
            return given
        said = given.get("scheme", {})
        if not isinstance(said, Mapping) or not said.keys().isdisjoint(RANGES_AND_SMOOTHING):
            return given
        named = said.get("name", SchemeName.INT8)
        try:
            asked = SensitivityOptions.model_validate(given.get("sensitivity", {}), strict=False)
        except ValidationError:
            return given  # refused below, by its key
        if asked.scheme is not None or named not in list(SchemeName):
            return given
        _, scheme = engine_and_scheme(asked, SchemeName(named))
        base = scheme.model_dump(mode="json", exclude_none=True)
        return {**given, "scheme": {**base, **said}}

    @model_validator(mode="after")
    def _one_origin(self) -> Recipe:
        if (self.source is None) == (self.model is None):
            raise ValueError("give either source (a checkpoint) or model (an ONNX file)")
        if self.model is not None and self.export != ExportPart():
            raise ValueError("[export] goes with source: the model of this recipe is exported")
        return self

    @model_validator(mode="after")
    def _said_once(self) -> Recipe:
        if self.sensitivity.scheme is not None or self.quantize.scheme is not None:
            raise ValueError("the scheme belongs in [scheme], for all stages")
        if self.quantize.fast:
            raise ValueError("fast belongs in [sensitivity], for all stages")
        for part, own in ((self.profile, "profile"), (self.quantize, "quantize")):
            if part.data:
                raise ValueError(f"[{own}] uses the data of [sensitivity]; leave its data out")
        if self.quantize.backend != "qgraph" or self.quantize.names:
            raise ValueError("a recipe writes qgraph's own model of every profile")
        return self

    @model_validator(mode="after")
    def _measured_on_something(self) -> Recipe:
        if self.profile.budget is not None and not self.sensitivity.data:
            raise ValueError("[profile] budget is measured on the data of [sensitivity]: give some")
        if self.profile.budget is None and (useless := self.profile.of_measuring()):
            raise ValueError(f"[profile] {useless[0]} goes with budget: nothing else is measured")
        return self

    @model_validator(mode="after")
    def _mixes_what_is_scored(self) -> Recipe:
        if strange := set(self.profile.mix) - set(self.sensitivity.schemes):
            raise ValueError(
                f"[profile] mix names {min(strange)!r}, which [sensitivity] schemes does not"
            )
        return self

    @model_validator(mode="after")
    def _converted_once(self) -> Recipe:
        if self.quantize.dtype is not None and self.export.dtype != "fp32":
            raise ValueError(
                f"quantize.dtype converts an fp32 model, and export.dtype is {self.export.dtype!r};"
                " leave one of them out"
            )
        return self


def read_recipe(path: Path) -> Recipe:
    """Return the recipe in `path`, its paths made relative to the working directory.

    Raises:
        InputError: no such file.
        UsageError: not TOML, an unknown key, or a value that does not belong.
    """
    require_file(path, "recipe")
    if path.stat().st_size > _LARGEST:
        raise UsageError("larger than 32 KiB, expected a recipe", where=str(path))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        # Not strict: TOML has strings where a recipe has paths and enums.
        recipe = Recipe.model_validate(content, strict=False)
    except ValidationError as error:
        raise _wrong(path, error) from error
    except UsageError as error:
        raise UsageError(error.message, where=str(path), hint=error.hint) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid TOML: {error}", where=str(path)) from error
    return _rebased(recipe, path.parent)


def _wrong(path: Path, error: ValidationError) -> UsageError:
    """Return what is wrong; a key that does not exist is named before one that is missing."""
    first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    *tables, key = map(str, first["loc"] or ("recipe",))
    what = message_of(first)
    hint = "The page Recipes of the documentation lists the keys."
    if first["type"] == "extra_forbidden":
        what = "no such key in a recipe"
        known = Recipe.model_fields.get(tables[0]) if tables else None
        part = known.annotation if known else Recipe
        hint = f"{nearest(key, getattr(part, 'model_fields', ()))} {hint}".strip()
    return UsageError(what, where=f"{path}: {'.'.join((*tables, key))}", hint=hint)


def _rebased(recipe: Recipe, folder: Path) -> Recipe:
    def data(part: SensitivityOptions | EvaluateOptions) -> dict[str, Any]:
        return {"data": tuple(folder / item for item in part.data)}

    prompts = recipe.evaluate.sanity
    evaluate = data(recipe.evaluate) | {"sanity": folder / prompts if prompts else prompts}
    return recipe.model_copy(
        update={
            "source": folder / recipe.source if recipe.source else None,
            "model": folder / recipe.model if recipe.model else None,
            "sensitivity": recipe.sensitivity.model_copy(update=data(recipe.sensitivity)),
            "evaluate": recipe.evaluate.model_copy(update=evaluate),
        }
    )

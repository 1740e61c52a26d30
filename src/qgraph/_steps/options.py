"""The options of each step: one class, used by the function, the command and the recipe.

A field is an option. Its `Flag` says what the command line shows of it; a field without one has no
option of its own there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_origin

from pydantic import AfterValidator, Field, SerializeAsAny, ValidationError, model_validator

from qgraph._evaluation.recommendation import require_limits
from qgraph._graph.errors import UsageError, nearest
from qgraph._graph.flags import Flag
from qgraph._graph.io.documents import Given, Part, in_words
from qgraph._metrics import SCORED
from qgraph._metrics.budget import Budget
from qgraph._quantize.formats import format_names
from qgraph._quantize.scheme import Scheme, SchemeName
from qgraph._sensitivity.beside_scores import MetricKey
from qgraph._sensitivity.engines.registry import AUTO, engine_of, engines
from qgraph._sensitivity.ranking.groups import Grouping
from qgraph._sensitivity.ranking.profiles import DEFAULT_CUTS, By
from qgraph._sensitivity.report import Direction
from qgraph._sensitivity.scoring.work import EngineOptions
from qgraph._steps.data import MOST_SAMPLES
from qgraph._steps.given import data_files

Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]

DATA = Flag(
    "Samples: .npz or a folder of .npz files. Some families also take .txt, .jsonl, a folder of"
    " images, or COCO's .json. Repeat the option to mix several."
)
SEED = Flag("Seed of synthetic samples.")
_BATCH_AXIS = Flag(
    "The axis of INPUT that counts samples in .npz data, from 0.  [default: a dynamic axis with the"
    " name of a batch, else 0]",
    metavar="INPUT=AXIS",
)
PREPROCESS = Flag(
    "How images become inputs. It replaces preprocessor_config.json beside the model. Examples:"
    ' "mean=0.5 std=0.5", "mean=0.485,0.456,0.406 std=0.229,0.224,0.225 shortest=256 crop=224".',
    metavar="HOW",
)
_TASK = Flag("lm, classify, detect or fidelity.  [default: by family and data]")
_OF_EACH = "of each file; of .npz files, in all"
_FAST = Flag(
    "No search: ranges are the extremes, and nothing is smoothed unless you ask for it."
    "  [default: search for ranges and smoothing together, if none of --calibrate, --smooth,"
    " --rotate, --ranges, --schemes and --engine inc is given]"
)


class Options(Given):
    """Options of a step. Where several values may be given, one may be given as it is. `data` may
    be in memory: an array, a dict of arrays as an `.npz` file holds them, or an iterable of these.
    `MOST`: samples that are used where none are asked for; None: all.
    """

    MOST: ClassVar[int | None] = None

    @model_validator(mode="before")
    @classmethod
    def _one_is_several(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        several = {
            name
            for name, field in cls.model_fields.items()
            if get_origin(field.annotation) is tuple
        }
        found = {
            key: (value,) if key in several and isinstance(value, str | Path) else value
            for key, value in given.items()
        }
        if "data" in found:
            found["data"] = data_files(found["data"], cls._most(found))
        return found

    @classmethod
    def _most(cls, given: Mapping[str, Any]) -> int | None:
        """Return how many samples are looked at: one more than are used, to know of it."""
        asked = given.get("samples") or cls.MOST
        return asked + 1 if isinstance(asked, int) else None


class CalibrateOptions(Options):
    """The options of `calibrate`: the data, the method, and the nodes.

    `scheme` None: ranges and smoothing are searched together, unless `fast` is set. A given scheme
    is used as it is. `outputs`: where a search measures errors.
    """

    MOST = MOST_SAMPLES

    data: Annotated[tuple[Path, ...], DATA] = ()
    batch_axis: Annotated[tuple[str, ...], _BATCH_AXIS] = ()
    preprocess: Annotated[str | None, PREPROCESS] = None
    samples: Annotated[
        Count | None, Flag("Use at most this many samples.  [default: all, up to 32]")
    ] = None
    scheme: Scheme | None = None
    fast: Annotated[bool, _FAST] = False
    outputs: Annotated[tuple[str, ...], Flag("Measure at this output.  [default: by family]")] = ()
    include: Annotated[
        tuple[str, ...],
        Flag(
            "Also score nodes with a name that matches RE, even if they are kept float by default.",
            metavar="RE",
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Flag("Keep nodes with a name that matches RE float, without a score.", metavar="RE"),
    ] = ()
    small: Annotated[
        bool,
        Flag(
            "Also score nodes that INT8 does not make faster: fewer than 16 channels, depthwise,"
            " one row."
        ),
    ] = False
    seed: Annotated[int, SEED] = 0  # fmt: skip
    time_budget: Annotated[
        float | None,
        Field(gt=0),
        Flag(
            "Stop after this time, such as 90s, 20m or 2h, and report the samples scored so far. At"
            " most four tenths go to the search for ranges.",
            kind="duration",
        ),
    ] = None


def _engine(name: str) -> str:
    if name != AUTO:
        engine_of(name, None)
    return name


def _limit(text: str | None) -> str | None:
    if text is not None:
        Budget.parse(text)
    return text


def _limits(accept: tuple[str, ...]) -> tuple[str, ...]:
    require_limits(accept)
    return accept


def _all_names(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for text in given for name in format_names(text))


def _mixed_names(given: Sequence[str]) -> tuple[str, ...]:
    names = _all_names(given)
    if names and len(set(names)) != 2:
        raise ValueError(f"found {', '.join(names)}, expected two formats, as in int8,fp8")
    return names


def _format_names(given: Sequence[str]) -> tuple[str, ...]:
    names = _all_names(given)
    if names and names[0] not in (SchemeName.INT8, SchemeName.FP8):
        raise ValueError(f"found {names[0]!r} first, expected int8 or fp8: ranks go by it")
    return names


class SensitivityOptions(CalibrateOptions):
    """The options of `sensitivity`, and those of the engine (`own`).

    `scheme` None: the default, or the engine's own. `metric` None: the error, or the
    noise-to-signal ratio if outputs hold boxes and scores. `group` None: the family chooses.
    """

    engine: Annotated[
        str,
        AfterValidator(_engine),
        Flag(
            "What computes the scores. wavefront measures every node; so does switch, more slowly."
            " gradient estimates them. auto: wavefront, or gradient where that takes long, and some"
            " nodes are measured. inc: Intel Neural Compressor.",
            choices=lambda: (AUTO, *engines()),
        ),
    ] = AUTO
    direction: Annotated[
        Direction, Flag("solo: only one node quantized; leave-one-out: all but one.")
    ] = Direction.BOTH
    metric: Annotated[
        MetricKey | None,
        Flag(
            "The metric for ranking, profiles and comparisons.  [default: noise_to_signal for"
            " detectors, else mse]",
            choices=lambda: SCORED,
        ),
    ] = None
    logits: Annotated[
        bool,
        Flag(
            "Also score KL and top-1 agreement of logits. --no-logits leaves a decoder's LM head"
            " out of every run: MSE, SQNR and cosine stay the same, in less time and memory."
        ),
    ] = True
    group: Annotated[
        Grouping | None,
        Flag(
            "fused: q/k/v and gate/up together, but for one that does most of their damage."
            "  [default: fused for decoders, else none]"
        ),
    ] = None
    schemes: Annotated[
        tuple[str, ...],
        AfterValidator(_format_names),
        Flag(
            "gradient: score every node in each of these formats from the same passes: int8, fp8,"
            " weight-int8, weight-int4. int8 and fp8 may name a calibration (int8:mse). The first"
            " one decides ranks and profiles.",
            metavar="NAMES",
        ),
    ] = ()
    own: SerializeAsAny[EngineOptions] = EngineOptions()  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _own_apart(cls, given: Any) -> Any:
        """Put what is no option of every engine where the engine's own stand."""
        if not isinstance(given, Mapping):
            return given
        common = {key: value for key, value in given.items() if key in cls.model_fields}
        own = {key: value for key, value in given.items() if key not in cls.model_fields}
        if not own:
            return common
        engine = engine_of(str(given.get("engine", AUTO)), None)
        _require_own(engine.options, own)
        return common | {"own": engine.options.model_validate(own, strict=False)}


def _require_own(kind: type[EngineOptions], given: Mapping[str, Any]) -> None:
    for key in given:
        if key in kind.model_fields:
            continue
        others = [name for name, item in engines().items() if key in item.options.model_fields]
        if others:
            flag = f"--{key.replace('_', '-')}"
            raise UsageError(f"{flag} is an option of --engine {' and '.join(others)}")
        known = (*SensitivityOptions.model_fields, *kind.model_fields, "runtime")
        raise UsageError(f"{key}: no such option", hint=nearest(key, known))


class ProfileOptions(Options):
    """The options of `profile`: where to cut, and the data to measure on.

    `budget`: a limit such as `loss<=1.02x`.
    """

    _ONLY_TO_MEASURE: ClassVar = ("data", "batch_axis", "preprocess", "task", "samples")

    cuts: dict[str, Share] = dict(DEFAULT_CUTS)
    by: Annotated[
        By,
        Flag(
            "What A to D are shares of: MACs (the work that becomes faster), nodes or parameters."
        ),
    ] = By.MACS
    top_k: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Flag("Add a profile that keeps the N most sensitive nodes float."),
    ] = None
    budget: Annotated[
        str | None,
        AfterValidator(_limit),
        Flag(
            'Add the largest profile within this limit. "loss<=1.02x" means 1.02 times the float'
            " model's loss.",
            metavar="LIMIT",
        ),
    ] = None
    mix: Annotated[
        tuple[str, ...],
        AfterValidator(_mixed_names),
        Flag(
            "Give each node the format that does less damage, as in int8,fp8. The target needs"
            " both formats, and the report needs --schemes int8,fp8.",
            metavar="NAMES",
        ),
    ] = ()
    data: Annotated[tuple[Path, ...], DATA] = ()
    batch_axis: Annotated[tuple[str, ...], _BATCH_AXIS] = ()
    preprocess: Annotated[str | None, PREPROCESS] = None
    task: Annotated[str | None, _TASK] = None
    samples: Annotated[
        Count | None, Flag(f"Measure on at most this many samples {_OF_EACH}.")
    ] = None  # fmt: skip

    def of_measuring(self) -> list[str]:
        """Return the options that were given and say on what profiles are measured."""
        return [name for name in self._ONLY_TO_MEASURE if getattr(self, name) not in (None, ())]


class QuantizeOptions(Options):
    """The options of `quantize`: the profiles, and what writes the models.

    `scheme` None: that of the profiles. `data`: samples to calibrate on, if no ranges are given,
    and to find what overflows.
    """

    MOST = MOST_SAMPLES

    names: Annotated[
        tuple[str, ...],
        Flag("Only this profile.  [default: all]", name="profile"),
    ] = ()
    backend: Annotated[
        Literal["qgraph", "inc"],
        Flag("What writes Q/DQ: qgraph, or Intel Neural Compressor with its own placement."),
    ] = "qgraph"
    dtype: Annotated[
        Literal["fp16"] | None,
        Flag(
            "Convert an fp32 model to fp16 first. Nodes that overflow stay fp32. Also writes"
            " fp16.onnx, the converted model without Q/DQ.  [default: the model's own]"
        ),
    ] = None
    scheme: Scheme | None = None
    fast: Annotated[
        bool,
        Flag("Use the extremes as ranges, and no smoothing, instead of the profiles' scheme."),
    ] = False
    data: Annotated[tuple[Path, ...], DATA] = ()
    batch_axis: Annotated[tuple[str, ...], _BATCH_AXIS] = ()
    preprocess: Annotated[str | None, PREPROCESS] = None
    samples: Annotated[
        Count | None, Flag("Calibrate on at most this many samples.  [default: all, up to 32]")
    ] = None
    seed: Annotated[int, SEED] = 0  # fmt: skip


class EvaluateOptions(Options):
    """The options of `evaluate`.

    `sanity`: a file of prompts; False: no prompts. `accept`: limits for the recommendation, such as
    `loss<=1.01x`.
    """

    data: Annotated[tuple[Path, ...], DATA] = ()
    batch_axis: Annotated[tuple[str, ...], _BATCH_AXIS] = ()
    preprocess: Annotated[str | None, PREPROCESS] = None
    samples: Annotated[
        Count | None, Flag(f"Use at most this many samples {_OF_EACH}.  [default: all]")
    ] = None
    task: Annotated[str | None, _TASK] = None
    sanity: Path | Literal[False] | None = None
    accept: Annotated[
        tuple[str, ...],
        AfterValidator(_limits),
        Flag(
            'Limits for the recommendation, as in "loss<=1.01x,top1>=0.95".  [default: a limit for'
            " each metric]",
            metavar="LIMITS",
        ),
    ] = ()
    latency: Annotated[
        bool,
        Flag("Measure latency and memory in onnxruntime. They say little about TensorRT."),
    ] = True
    allow_cpu_nodes: Annotated[
        bool, Flag("With CUDA: accept that compute nodes run on the CPU.")
    ] = False


P = TypeVar("P", bound=Part)


def chosen(kind: type[P], options: P | None, given: Mapping[str, Any]) -> P:
    """Return the options given as an object, or by name, or both, where names win.

    Raises:
        UsageError: there is no such option, or a value does not belong.
    """
    if options is not None and not given:
        return options
    if "scheme" in kind.model_fields and (parts := given.keys() & Scheme.model_fields.keys()):
        key = min(parts)
        raise UsageError(
            f"{key}: no such option",
            hint=f"It is a part of the scheme: scheme=qgraph.Scheme({key}={given[key]!r}).",
        )
    known = {} if options is None else _as_given(options)
    wanted = known | dict(given)
    try:
        if "data" in given:  # an iterator can be read once: all else is looked at before
            kind.model_validate(wanted | {"data": ()}, strict=False)
        return kind.model_validate(wanted, strict=False)
    except ValidationError as error:
        raise in_words(error, (*kind.model_fields, "runtime")) from error


def _as_given(options: Part) -> dict[str, Any]:
    """Return the fields as they might have been given: the engine's own among the others."""
    fields = {name: getattr(options, name) for name in type(options).model_fields}
    own = fields.pop("own", None)
    if isinstance(own, Part):
        fields |= {name: getattr(own, name) for name in own.model_fields_set}
    return fields

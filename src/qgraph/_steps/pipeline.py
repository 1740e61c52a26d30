"""A recipe's whole chain: what is done, what is left.

A stage whose record still holds is not repeated, so an interrupted run goes on where it stopped,
and a changed option repeats just what depends on it. One run at a time works in a folder, by a lock
that frees itself when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qgraph._exporters.belongings import read_with
from qgraph._graph.errors import EnvironmentFault, InputError, UsageError
from qgraph._graph.io.files import require_writable_folder
from qgraph._graph.io.inside import require_apart
from qgraph._graph.run.runtime import Runtime
from qgraph._steps.chain import WRITTEN, RecipeChain
from qgraph._steps.given import AnyPath, path_of
from qgraph._steps.making import file_stem
from qgraph._steps.recipe import Recipe, read_recipe
from qgraph._steps.stages import RECORD, ensure

_RESERVED = {"model", "float", "embed_tokens", "shared", "budget"}


def run(
    recipe: Recipe | AnyPath,
    folder: AnyPath | None = None,
    *,
    fast: bool = False,
    fresh: bool = False,
    runtime: Runtime | None = None,
) -> Path:
    """Run the whole chain of a recipe, without the stages that are done; return the run folder.

    `fast` (no search for ranges and smoothing) and `runtime` replace what the recipe says.

    Raises:
        QGraphError: a stage failed; the stages before it stay done.
    """
    return run_stages(recipe, folder, fast=fast, fresh=fresh, runtime=runtime).folder


@dataclass(frozen=True, slots=True)
class Ran:
    """Where a recipe ran, which stages did their work now, and which had done it before."""

    folder: Path
    done: tuple[str, ...]
    kept: tuple[str, ...]


def run_stages(
    recipe: Recipe | AnyPath,
    folder: AnyPath | None = None,
    *,
    fast: bool = False,
    fresh: bool = False,
    runtime: Runtime | None = None,
) -> Ran:
    """Do the same as `run`, and say what was left to do."""
    loaded = recipe if isinstance(recipe, Recipe) else read_recipe(path_of(recipe, "a recipe"))
    target = path_of(folder, "a folder") if folder is not None else Path("runs") / loaded.name
    if runtime is None:
        runtime = Runtime(loaded.provider, ray=loaded.run.ray, ray_ship=loaded.run.ray_ship)
    scheme = loaded.scheme.plain() if fast else loaded.scheme
    loaded = loaded.model_copy(update={"provider": runtime.provider, "scheme": scheme})
    _require_free_names(loaded)
    _require_apart(loaded, target)
    _require_data(loaded)
    with locked(target):
        if fresh:
            (target / RECORD).unlink(missing_ok=True)
        chain = RecipeChain(loaded, target, runtime, fresh=fresh)
        worked = {stage.name: ensure(stage, target) for stage in chain.stages()}
    done = tuple(name for name, now in worked.items() if now)
    return Ran(target, done, tuple(name for name, now in worked.items() if not now))


def _require_free_names(recipe: Recipe) -> None:
    """Check that no profile is called as another file of the run."""
    reserved = sorted(_RESERVED & recipe.profile.cuts.keys())
    if reserved:
        raise UsageError(f"a profile cannot be called {reserved[0]!r}, as another file is")


def _require_apart(recipe: Recipe, folder: Path) -> None:
    """Check that the run writes over none of the files it starts from."""
    prompts = [recipe.evaluate.sanity] if recipe.evaluate.sanity else []
    read = [*([recipe.model] if recipe.model else []), *prompts]
    read += [*recipe.sensitivity.data, *recipe.evaluate.data]
    stems = (file_stem(name, recipe.quantize.dtype) for name in recipe.profile.cuts)
    written = sorted({*WRITTEN, *(f"{stem}.onnx" for stem in stems)})
    require_apart([folder / name for name in written], read_with(read))


def _require_data(recipe: Recipe) -> None:
    """Check before any work what the last stage would only find after all of it."""
    scored, evaluated = recipe.sensitivity.data, recipe.evaluate.data
    if not (scored or evaluated):
        raise UsageError(
            "the recipe names no data, and variants cannot be evaluated without",
            where=recipe.name,
            hint="Give data = [...] under [evaluate], and under [sensitivity] to calibrate with.",
        )
    prompts = [recipe.evaluate.sanity] if recipe.evaluate.sanity else []
    for path in (*scored, *evaluated, *prompts):
        if not path.exists():
            raise InputError("no such data", where=str(path), hint="Check the recipe.")


_NAME = ".qgraph.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if needed.

    Raises:
        EnvironmentFault: another process holds it, or the lock file is a link.
    """
    path = require_writable_folder(folder) / _NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise _fault(path, error) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise EnvironmentFault("this is no file, expected a lock", where=str(path), hint=_HINT)
        _acquire(descriptor, path)
        yield
    finally:
        os.close(descriptor)


_HINT = "Remove it, or choose another folder with -o."


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"cannot lock: {error.strerror}", where=str(path), hint=_HINT)


def _acquire(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
        raise EnvironmentFault(
            f"another run (process {holder}) is working in this folder",
            where=str(path.parent),
            hint="Wait for it, stop it, or choose another folder with -o.",
        ) from error
    except OSError as error:  # a file system without locks
        raise _fault(path, error) from error
    with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)

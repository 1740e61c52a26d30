"""What the files of a checkpoint name beside themselves: nothing outside the folder, no code.

transformers follows what a config names: a kernel of the hub in place of an attention, another
file of weights, the base model of an adapter. Such names are refused before it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qgraph._graph.errors import InputError, UsageError
from qgraph._graph.io.documents import read_json
from qgraph._graph.io.inside import find_inside

_ATTENTIONS = {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"}
"""Those that transformers has itself; another is the name of a repository with code in it."""
_CODE = {"kernel_config", "kernels", "transformers_weights", "use_kernels"}
_INDEX = "model.safetensors.index.json"


def require_plain(folder: Path) -> None:
    """Check that the checkpoint in `folder` names no code and no file elsewhere.

    1. Its files are files of the folder, or of the same repository in a hub's cache.
    2. An index of weights names *.safetensors in the folder.
    3. No config names an attention that is not transformers' own, a kernel, other weights.
    4. It is no adapter, whose base model would be looked for elsewhere.

    Raises:
        InputError: it does.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and find_inside(folder, path.name) is None:
            raise _refused(path, "this is a link out of the checkpoint's folder")
    for path in sorted(folder.glob("*.safetensors.index.json")):
        _require_own_weights(path)
    for path in (folder / "config.json", folder / "generation_config.json"):
        if path.is_file():
            _require_no_code(path)
    if (folder / "adapter_config.json").exists():
        raise _refused(folder / "adapter_config.json", "this is an adapter of another model")


def _refused(path: Path, what: str) -> InputError:
    return InputError(
        f"{what}, expected a checkpoint that stands alone",
        where=str(path),
        hint="Save it anew with save_pretrained, or edit a copy of the file.",
    )


def read_content(path: Path) -> Any:
    """Return the JSON value in a file of a checkpoint.

    Raises:
        InputError: no such file, or not JSON.
    """
    try:
        return read_json(path)
    except UsageError as error:
        raise InputError(error.message, where=error.where, hint="Copy the file again.") from error


def _require_own_weights(path: Path) -> None:
    content = read_content(path)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict):
        raise _refused(path, "this index has no weight_map")
    for name in dict.fromkeys(map(str, listed.values())):
        if not name.endswith(".safetensors") or find_inside(path.parent, name) is None:
            raise _refused(path, f"this index names {name!r}, which is no weights of the folder")


def _require_no_code(path: Path) -> None:
    for key, value in _entries(read_content(path)):
        foreign = key.endswith("attn_implementation") and value not in (None, *_ATTENTIONS)
        if foreign or (key in _CODE and value):
            raise _refused(path, f"{key!r} names {str(value)[:80]!r}, which may be code")


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Yield key and value of every object in a JSON value; of one of attentions, each of them."""
    if isinstance(content, list):
        for item in content:
            yield from _entries(item)
    elif isinstance(content, dict):
        for key, value in content.items():
            inner = value if isinstance(value, dict) else {}
            if key.endswith("attn_implementation") and inner:
                yield from ((key, item) for item in inner.values())
            else:
                yield key, value
                yield from _entries(value)

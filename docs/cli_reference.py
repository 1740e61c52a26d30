"""docs/cli.md, made from the commands: `python docs/cli_reference.py > docs/cli.md`."""

from __future__ import annotations

import sys

import click

from qgraph._cli.cli import cli

_HEAD = """# Command line

This page holds the help of every command. It is made by
`python docs/cli_reference.py > docs/cli.md`; a test keeps it true.

Every command has `--json` (the result, or the error, as one JSON value on stdout), `--quiet` (no
progress on stderr) and `--debug` (the traceback of an error).

After `eval "$(_QGRAPH_COMPLETE=bash_source qgraph)"`, the Tab key completes commands and options.
For zsh write `zsh_source`; for fish use `_QGRAPH_COMPLETE=fish_source qgraph | source`.

| exit code | meaning |
|---:|---|
| 0 | done |
| 2 | usage: a wrong option; a profile, recipe or JSON file with wrong content or of another model |
| 3 | bad input: a missing file of any kind; a model or data that cannot be used |
| 4 | environment: no such provider or package; no space or permission; a locked folder |
| 5 | a limit was reached: memory, time or size |
| 6 | the runtime crashed in its child process |
| 7 | a quality gate failed |
| 75 | interrupted; the same command continues |
| 141 | nobody reads what is printed any more (`head`); files are complete |
"""


def cli_reference() -> str:
    """Return the reference of all commands as Markdown."""
    sections = [_HEAD]
    for name in cli.commands:
        parent = click.Context(cli, info_name="qgraph", **cli.context_settings)
        # click takes the width from the terminal unless it is told
        context = click.Context(
            cli.commands[name], parent=parent, info_name=name, terminal_width=96
        )
        sections.append(f"## qgraph {name}\n\n```\n{cli.commands[name].get_help(context)}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    sys.stdout.write(cli_reference())

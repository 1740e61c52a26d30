"""docs/cli.md, made from the commands: `python docs/cli_reference.py > docs/cli.md`."""

from __future__ import annotations

import sys

import click

from qgraph._cli.cli import cli

_HEAD = """# Command line

Made from the commands' own help by `python docs/cli_reference.py > docs/cli.md`; tests keep
it true.

Every command takes `--json` (the result, or the error, as one JSON value on stdout), `--quiet` (no
progress on stderr) and `--debug` (the traceback of an error).

Words and options complete with Tab after `eval "$(_QGRAPH_COMPLETE=bash_source qgraph)"` (for zsh
`zsh_source`; for fish `_QGRAPH_COMPLETE=fish_source qgraph | source`).

| exit code | meaning |
|---:|---|
| 0 | done |
| 2 | usage: an option; a profile, recipe or JSON with wrong content, or of another model |
| 3 | bad input: a file that is not there, whatever its kind; a model or data that cannot be used |
| 4 | environment: no such provider, package, space, permission; folder locked |
| 5 | a limit: memory, time, size |
| 6 | the runtime died in its child process |
| 7 | a quality gate failed |
| 75 | interrupted; the same command goes on |
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

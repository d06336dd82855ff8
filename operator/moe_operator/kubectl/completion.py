"""`kubectl_complete-moe`: kubectl runs it to complete `kubectl moe …`, with the words after `moe` as arguments.

What kubectl wants back is a line for each word, then a colon with what the shell may do beside it:
https://kubernetes.io/docs/reference/kubectl/generated/kubectl_plugin/. The words are typer's own.
"""

import os
import shlex
import sys

import typer

from moe_operator.kubectl.app import PROGRAM, app

NO_FILES = 4
"""Do not offer names of files: ShellCompDirectiveNoFileComp of
https://github.com/spf13/cobra/blob/main/site/content/completions/_index.md."""


def main() -> None:
    """Print the words that may follow."""
    words = sys.argv[1:] or [""]
    os.environ[f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE"] = "complete_bash"
    os.environ["COMP_WORDS"] = shlex.join([PROGRAM, *words])
    os.environ["COMP_CWORD"] = str(len(words))
    try:
        app(prog_name=PROGRAM)
    except SystemExit:
        typer.echo(f":{NO_FILES}")

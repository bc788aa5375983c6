"""What the README shows works: Python blocks run in one session, command lines parse against the real commands.

A block after the line `<!-- not run -->` is left alone.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from searchtune.cli.main import app

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- not run -->\n)?^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
ENDS = {"|", ">", ">>", "&&", "||", ";", "&", "2>", "<"}


def blocks(text: str, *languages: str) -> list[str]:
    return [body for skip, language, body in BLOCK.findall(text) if language in languages and not skip]


def command_lines(text: str) -> list[list[str]]:
    """The arguments of every `searchtune ...` call in the shell blocks."""
    found = []
    for body in blocks(text, "console", "bash", "sh", "shell"):
        for line in body.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            parts = list(lexer)
            while "searchtune" in parts:
                parts = parts[parts.index("searchtune") + 1 :]
                end = next((i for i, part in enumerate(parts) if part in ENDS), len(parts))
                found.append(parts[:end])
                parts = parts[end:]
    return found


def parse(args: list[str]) -> None:
    """Parse as the command line would, down to the command; a path that is not there yet is fine."""
    name, command, context = "searchtune", typer.main.get_command(app), None
    rest: list[Any] = args
    while True:
        try:
            context = command.make_context(name, list(rest), parent=context)
        except typer.Exit:
            return
        except typer.BadParameter as error:
            if "does not exist" in str(error):
                return
            raise
        if not hasattr(command, "resolve_command"):
            return
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("args", command_lines(readme()), ids=" ".join)
def test_command_lines_parse(args):
    parse(args)


def test_python_blocks_run(tmp_path, monkeypatch):
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "readme"}
    for number, body in enumerate(blocks(readme(), "python")):
        exec(compile(body, f"README.md python block {number}", "exec"), session)


def test_the_harness_itself():
    text = (
        "```console\n$ searchtune --version\n$ searchtune nope | head  # words\n```\n"
        "<!-- not run -->\n```bash\nsearchtune skipped\n```\n"
        "```bash\nmake demo\nX=1 searchtune data \\\n  list > out && searchtune --nope\n```\n"
    )
    assert command_lines(text) == [["--version"], ["nope"], ["data", "list"], ["--nope"]]
    parse(["--version"])
    for wrong in (["nope"], ["--nope"]):
        with pytest.raises(Exception, match="No such"):
            parse(wrong)

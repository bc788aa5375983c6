"""The command line's frame: exit codes, what goes to which stream, and that a command loads only its own module."""

import signal
import subprocess
import sys
import textwrap
import warnings
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

import searchtune
from searchtune.cli import main
from searchtune.errors import ConfigError, SearchtuneWarning


@pytest.fixture
def stage(monkeypatch):
    """Put a function in the place of `searchtune demo` and return how to run the command line."""

    def use(demo, *args, env=None):
        module = ModuleType("searchtune.cli.demo")
        module.demo = demo
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return CliRunner().invoke(main.app, args or ["demo"], prog_name="searchtune", env=env)

    return use


def fails() -> None:
    raise ConfigError("x.yaml: key 'task' is missing")


def test_a_fine_command_exits_0(stage):
    done = stage(lambda: typer.echo("result"))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "result\n", "")


def test_our_warnings_are_one_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    monkeypatch.setattr(main, "app", lambda **_: None)
    main.main()
    assert warnings.formatwarning("bf16 is slow", SearchtuneWarning, "a.py", 3) == "note: bf16 is slow\n"
    assert "a.py:3: FutureWarning: old" in warnings.formatwarning("old", FutureWarning, "a.py", 3)


def test_a_gate_that_failed_exits_1(stage):
    def gate() -> None:
        typer.echo("regression")
        raise typer.Exit(1)

    done = stage(gate)
    assert (done.exit_code, done.stdout) == (1, "regression\n")


def test_an_error_is_one_line_on_stderr_and_exits_2(stage):
    done = stage(fails)
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", "error: x.yaml: key 'task' is missing\n")


def test_debug_shows_the_traceback(stage):
    for done in (stage(fails, "--debug", "demo"), stage(fails, env={"SEARCHTUNE_DEBUG": "1"})):
        assert done.exit_code == 2
        assert "Traceback" in done.stderr
        assert done.stderr.endswith("error: x.yaml: key 'task' is missing\n")


def test_an_interrupt_exits_130(stage):
    def wait() -> None:
        raise KeyboardInterrupt

    done = stage(wait)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_a_mistake_of_ours_keeps_its_traceback(stage):
    def broken() -> None:
        raise ZeroDivisionError

    assert isinstance(stage(broken).exception, ZeroDivisionError)


def test_version():
    done = CliRunner().invoke(main.app, ["--version"])
    assert (done.exit_code, done.stdout) == (0, f"searchtune {searchtune.__version__}\n")


def test_an_unknown_command_suggests_one_and_exits_2():
    done = CliRunner().invoke(main.app, ["dmo"], prog_name="searchtune")
    assert done.exit_code == 2
    assert "Did you mean 'demo'" in done.stderr


def test_an_unknown_option_exits_2(stage):
    done = stage(lambda: None, "demo", "--nope")
    assert done.exit_code == 2
    assert "No such option: --nope" in done.stderr


def test_help_lists_every_command():
    done = CliRunner().invoke(main.app, ["--help"])
    assert done.exit_code == 0
    assert all(name in done.stdout for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_loads_and_has_help(name):
    done = CliRunner().invoke(main.app, [name, "--help"], prog_name="searchtune")
    assert done.exit_code == 0, done.output
    assert f"Usage: searchtune {name}" in done.stdout


@pytest.mark.parametrize("name", main.COMMANDS)
def test_the_line_in_help_is_the_command_s_own(name):
    assert main.load_command(name).get_short_help_str(limit=200) == main.COMMANDS[name]


def every_command(command, *names):
    inner = getattr(command, "commands", {})
    yield names, command
    for name, one in inner.items():
        yield from every_command(one, *names, name)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_at_80_columns_is_read_in_lines_and_whole(name, monkeypatch):
    """No column of two words a line, no type on a flag, and nothing of a text in brackets is taken for markup."""
    monkeypatch.setenv("COLUMNS", "80")
    for names, command in every_command(main.load_command(name), name):
        shown = CliRunner().invoke(main.app, [*names, "--help"], prog_name="searchtune").stdout
        lines = shown.splitlines()
        assert max(map(len, lines)) <= 80
        assert "<bool>" not in shown and "..." not in shown.partition("Commands:")[2]
        assert max(len(line) - len(line.lstrip()) for line in lines) <= 36
        joined = "".join(shown.split())
        for param in command.params:
            said = getattr(param, "help", None) or ""
            assert "".join(said.split()).rstrip(".") in joined, f"{names}: {param.name}"


STAGED = """
import sys, time, types, typer
module = types.ModuleType("searchtune.cli.demo")
def demo() -> None:
{body}
module.demo = demo
sys.modules["searchtune.cli.demo"] = module
from searchtune.cli.main import main
sys.argv = ["searchtune", "demo"]
main()
"""


def staged(body: str) -> list[str]:
    return [sys.executable, "-c", STAGED.format(body=textwrap.indent(textwrap.dedent(body), "    "))]


def test_ctrl_c_of_a_running_process():
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    command = staged(f"{listen}; print('ready', flush=True); time.sleep(60)")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "interrupted\n")


@pytest.mark.parametrize("body", ["for i in range(100_000): typer.echo(i)", "time.sleep(0.3); print('one line')"])
def test_a_reader_that_goes_away_is_no_error(body):
    process = subprocess.Popen(staged(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=30), err) == (141, b"")

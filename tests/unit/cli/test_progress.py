"""What a person sees of the progress: plain lines, and a bar only while it trains."""

import re

from searchtune.cli.progress import RichProgress


def test_lines_on_stderr_and_nothing_on_stdout(capsys):
    long = "a note of more than eighty columns stays on one line where nobody watches, so that it can be searched for"
    with RichProgress() as progress:
        progress.stage("first")
        progress.note(long)
        progress.stage("training")
        for step in range(3):
            progress.step(step + 1, 3, "loss 1.000")
        progress.stage("last")
        progress.note("[0.5] is no markup")
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.strip()]
    assert lines[:3] == ["- first", f"  {long}", "- training"]
    assert re.search(r"training .* 3/3 loss 1.000", lines[3])
    assert lines[4:] == ["- last", "  [0.5] is no markup"]

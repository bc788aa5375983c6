"""What a person sees of the progress: plain lines, and a bar only while it trains."""

import re
import time

import numpy as np
import pytest

from searchtune.cli import progress as module
from searchtune.cli.progress import RichProgress
from searchtune.counting import counted, watched_by


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


def test_where_there_is_no_terminal_a_line_comes_now_and_then(capsys, monkeypatch):
    """With count, rate and ETA where something is counted, and the time so far where nothing is."""
    monkeypatch.setattr(module, "_LINE_EVERY", 0.0)
    with RichProgress() as progress:
        progress.stage("caching the frozen layers' states (once)")
        for _ in counted(np.array_split(np.arange(500), 5), 1000):
            pass
        time.sleep(1.2)
        progress.stage("indexing")
        time.sleep(1.2)
        progress.stage("training")
        for step in (3, 4):
            progress.step(step, 8, "loss 0.500")
            time.sleep(1.2)
    lines = capsys.readouterr().err.splitlines()
    assert any(
        re.search(r"caching the frozen layers' states: 500 of 1,000, [\d,.]+/s, ETA 0:00:0\d", it) for it in lines
    )
    assert any(re.search(r"indexing: 0:00:0[12] so far", line) for line in lines)
    assert any(re.search(r"training: 4 of 8, .*ETA .*, loss 0.500", line) for line in lines)


def test_lines_are_rare_by_default(capsys):
    with RichProgress() as progress:
        progress.stage("quick")
        time.sleep(1.1)
    assert [line for line in capsys.readouterr().err.splitlines() if line.strip()] == ["- quick"]


def test_what_loops_count_by_themselves_is_shown_unless_the_workflow_counts(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", -1.0)
    with RichProgress() as progress:
        list(counted([[1], [2, 3]], 3))
        assert progress._task is None, "no stage was begun: another process of a run keeps silent"
        progress.stage("encoding")
        list(counted([[1], [2, 3]], 3))
        (task,) = progress._bar.tasks
        assert (task.description, task.completed, task.total) == ("encoding", 3, 3)
        list(counted([[1]], 9))
        assert (progress._bar.tasks[0].completed, progress._bar.tasks[0].total) == (1, 9)
        progress.stage("training")
        progress.step(1, 5, "loss 1.000")
        list(counted([[1, 2, 3, 4]], 4))
        assert (progress._bar.tasks[0].completed, progress._bar.tasks[0].total) == (1, 5)


def test_loops_count_what_is_done_and_only_for_who_watches():
    seen = []
    with watched_by(lambda done, total: seen.append((done, total))):
        for group in counted([[1, 2], [3]], 3):
            assert len(seen) == (0 if group == [1, 2] else 1), "a group is counted once it is done"
        assert list(counted([("a", [1, 2, 3])], 3, lambda one: len(one[1]))) == [("a", [1, 2, 3])]
    assert seen == [(2, 3), (3, 3), (3, 3)]
    assert list(counted([[1]], 1)) == [[1]]
    assert len(seen) == 3


@pytest.mark.parametrize("reader", ["encode_store", "compute_states"])
def test_reading_many_texts_is_counted(tiny_model, reader):
    import torch

    from searchtune.models.encoder import load_encoder
    from searchtune.models.inputs import tokenise
    from searchtune.models.layers import compute_states, room_for_states

    encoder = load_encoder(tiny_model, dtype=torch.float32, device=torch.device("cpu"), attention="eager")
    store, seen = tokenise(encoder.tokenizer, ["old tide", "sail", "moss and loan"], 16), []
    with watched_by(lambda done, total: seen.append((done, total))):
        if reader == "encode_store":
            encoder.encode_store(store)
        else:
            compute_states(encoder, store, room_for_states(encoder, store, None), np.arange(3), 1)
    assert seen[-1] == (3, 3)

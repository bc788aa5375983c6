"""Broken input at every command that reads: no traceback, exit code 2, the file and a remedy in the message.

`python tests/bad_input.py` calls all of the several thousand cases; here every so many of them, others for each kind.
"""

import pytest

import bad_input


@pytest.fixture(scope="module")
def world(finished, tiny_model, tmp_path_factory):
    return bad_input.build(tmp_path_factory.mktemp("world"), finished.adapter, tiny_model)


def test_broken_input_is_refused_by_name(world, tmp_path):
    chosen = list(bad_input.some_cases(world))
    assert len(chosen) >= 600
    outcomes = [bad_input.run(case, tmp_path / str(number)) for number, case in enumerate(chosen)]
    bad = "\n".join(f"{one.case.name} -> {one.fault}" for one in outcomes if one.fault)
    assert not bad, bad
    assert len({one.case.command for one in outcomes}) >= 30

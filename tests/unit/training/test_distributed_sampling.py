"""What the objectives see of other processes: shares, gathering, and batches too small to share."""

import numpy as np
import pytest
import torch

from searchtune.errors import ConfigError
from searchtune.specs.recipe import ContrastiveObjective
from searchtune.training import contrastive, distributed
from unit.training.tiny import open_world


@pytest.fixture
def world(tiny_model, small_world):
    return open_world(tiny_model, small_world)


def test_alone_a_process_has_everything():
    rows = torch.ones(3, 2, requires_grad=True)
    assert distributed.own_share(np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert distributed.gather_rows(rows, 3) is rows
    assert distributed.processes() == 1


def test_a_batch_smaller_than_the_processes(world, monkeypatch):
    monkeypatch.setattr(contrastive, "processes", lambda: 3)
    with pytest.raises(ConfigError, match="batch_size is 2, but 3 processes need a pair each"):
        world.objective(ContrastiveObjective(), batch_size=2)
    assert world.objective(ContrastiveObjective(), batch_size=70).steps_per_epoch() == 1, "2 pairs for 3 processes"


def test_one_query_for_two_processes_is_encoded_by_both(world, monkeypatch):
    rows = np.array([4, 4])
    shares = []
    monkeypatch.setattr(contrastive, "own_share", lambda items: shares.append(items.tolist()) or items)
    alone = contrastive.encode_rows(world.encoder, world.texts(), rows, world.encoder.device)
    monkeypatch.setattr(contrastive, "processes", lambda: 2)
    both = contrastive.encode_rows(world.encoder, world.texts(), rows, world.encoder.device)
    assert shares == [[4], [4, 4]]
    torch.testing.assert_close(alone, both)

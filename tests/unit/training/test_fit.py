"""The fit loop on a toy objective: schedule, best weights, groups, errors, signals and exact resume."""

import errno
import json
import math
import os
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from searchtune.errors import SearchtuneError, StorageError
from searchtune.specs.recipe import Optimiser
from searchtune.storage.marker import MARKER_FILE, is_complete
from searchtune.training.checkpoint import load_checkpoint, newest_checkpoint, prune_checkpoints, save_checkpoint
from searchtune.training.fit import FitPlan, TrainingInterrupted, fit, learning_rate


class Toy(nn.Module):
    """Two matrices named like LoRA's, and a frozen one; dropout draws from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.frozen = nn.Parameter(torch.randn(4, 4, generator=generator), requires_grad=False)
        self.lora_A = nn.Parameter(torch.randn(2, 4, generator=generator))
        self.lora_B = nn.Parameter(torch.randn(4, 2, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.2) @ (self.frozen + self.lora_B @ self.lora_A).T


@dataclass
class ToyObjective:
    steps: int = 5
    scale: float = 1.0
    trainable: nn.Module = field(default_factory=Toy)

    def steps_per_epoch(self) -> int:
        return self.steps

    def batches(self, epoch: int):
        rng = np.random.default_rng(epoch)
        for _ in range(self.steps):
            yield torch.from_numpy(rng.normal(size=(3, 4)).astype(np.float32))

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        return self.scale * (self.trainable(batch) - 1).square().mean()


def optim(**changes) -> Optimiser:
    return Optimiser(**{"lr": 0.05, "epochs": 2, "min_steps": 0, "checkpoint_every": 3, **changes})


def weights(objective) -> dict[str, list]:
    return {name: parameter.tolist() for name, parameter in objective.trainable.named_parameters()}


def steps_of(log) -> list[tuple]:
    return [(step.step, step.loss, step.lr, step.grad_norm, step.dev) for step in log.steps]


class KilledError(Exception):
    """Stands in for a kill: leaves `fit` without any clean-up of its own."""


def die_at(step: int):
    def on_step(done, total):
        if done.step == step:
            raise KilledError

    return on_step


def run(folder, *, resume=False, on_step=None, on_eval=None, evaluations=0, objective=None, **changes):
    objective = objective or ToyObjective()
    plan = FitPlan(folder, seed=1, evaluations=evaluations, resume=resume)
    return objective, fit(objective, optim(**changes), plan, on_eval=on_eval, on_step=on_step)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0.5, 1, *((1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))]),
        ("constant", [0.5, *[1] * 9]),
    ],
)
def test_the_learning_rate(tmp_path, schedule, expected):
    settings = optim(lr=2.0, warmup=0.2, schedule=schedule)
    assert [learning_rate(i, 10, settings) for i in range(10)] == pytest.approx([2 * share for share in expected])
    _, log = run(tmp_path, lr=0.01, warmup=0.2, schedule=schedule)
    assert [step.lr for step in log.steps] == pytest.approx([0.01 * share for share in expected])


def test_without_warmup_the_first_rate_is_the_whole(tmp_path):
    assert learning_rate(0, 4, optim(lr=1.0, warmup=0.0)) == 1.0
    assert learning_rate(0, 1, optim(lr=1.0, warmup=0.5)) > 0


def test_training_lowers_the_loss_and_leaves_frozen_weights(tmp_path):
    objective, log = run(tmp_path, epochs=30, checkpoint_every=1000)
    assert [step.step for step in log.steps] == list(range(1, 151))
    assert np.mean([step.loss for step in log.steps[-20:]]) < 0.7 * np.mean([step.loss for step in log.steps[:20]])
    assert weights(objective)["frozen"] == weights(ToyObjective())["frozen"]
    assert (log.best_step, log.best_dev) == (150, None)


def test_one_step_is_adamw(tmp_path):
    """Against torch's own optimiser, clipping included."""
    objective, log = run(tmp_path, epochs=1, weight_decay=0.1, max_grad_norm=0.5, objective=ToyObjective(steps=1))
    expected = ToyObjective(steps=1)
    torch.manual_seed(1)
    parameters = [expected.trainable.lora_A, expected.trainable.lora_B]
    loss = expected.loss(next(expected.batches(0)))
    loss.backward()
    norm = nn.utils.clip_grad_norm_(parameters, 0.5)
    torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1).step()
    assert (log.steps[0].loss, log.steps[0].grad_norm) == (pytest.approx(loss.item()), pytest.approx(norm.item()))
    assert norm > 0.5
    for name, value in weights(expected).items():
        assert np.allclose(weights(objective)[name], value, atol=1e-7)


def test_lora_plus_gives_b_its_own_rate(tmp_path):
    before = ToyObjective().trainable
    moved = {}
    for ratio in (1.0, 4.0):
        objective, _ = run(
            tmp_path / str(ratio), objective=ToyObjective(steps=1), epochs=1, warmup=0.0, lora_plus_ratio=ratio
        )
        after = objective.trainable
        moved[ratio] = (
            (after.lora_A - before.lora_A).abs().max().item(),
            (after.lora_B - before.lora_B).abs().max().item(),
        )
    assert moved[4.0][0] == pytest.approx(moved[1.0][0], rel=1e-3)
    assert moved[4.0][1] == pytest.approx(4 * moved[1.0][1], rel=0.05)  # a first step of Adam moves by the rate


def test_the_best_weights_are_kept(tmp_path):
    objective, seen = ToyObjective(), []
    figures = iter([0.2, 0.9, 0.5, 0.9])

    def on_eval():
        seen.append(weights(objective))
        return {"ndcg@10": next(figures), "recall@100": 0.1}

    _, log = run(tmp_path, objective=objective, on_eval=on_eval, evaluations=4)
    assert [step.step for step in log.steps if step.dev] == [2, 5, 8, 10]
    assert (log.best_step, log.best_dev) == (5, {"ndcg@10": 0.9, "recall@100": 0.1})
    assert weights(objective) == seen[1] != seen[3]


def test_more_evaluations_than_steps(tmp_path):
    _, log = run(tmp_path, on_eval=lambda: {"ndcg@10": 0.5}, evaluations=99)
    assert all(step.dev for step in log.steps)
    assert log.best_step == 1, "of equal figures the earliest counts"


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_loss_that_is_not_finite(tmp_path, scale):
    with pytest.raises(SearchtuneError, match=r"the loss became (nan|inf) at step 1; lower optim\.lr"):
        run(tmp_path, objective=ToyObjective(scale=scale))


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(SearchtuneError, match="nothing to train on"):
        run(tmp_path, objective=ToyObjective(steps=0))


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("evaluations", [0, 4])
def test_a_run_that_dies_again_and_again_ends_in_the_same_bits(tmp_path, every, evaluations):
    def scored(objective):
        return lambda: {"ndcg@10": -float(np.square(np.array(weights(objective)["lora_A"]) - 0.3).sum())}

    undisturbed = ToyObjective()
    _, expected = run(
        tmp_path / "whole",
        objective=undisturbed,
        checkpoint_every=every,
        evaluations=evaluations,
        on_eval=scored(undisturbed),
    )
    for step in (4, 1, 7, 9, 10):
        objective = ToyObjective()
        torch.rand(step)  # whatever the process drew before must not matter
        with pytest.raises(KilledError):
            run(
                tmp_path / "cut",
                objective=objective,
                resume=True,
                checkpoint_every=every,
                evaluations=evaluations,
                on_eval=scored(objective),
                on_step=die_at(max(step, 1)),
            )
            raise KilledError  # the step lies behind the newest checkpoint
    objective = ToyObjective()
    _, log = run(
        tmp_path / "cut",
        objective=objective,
        resume=True,
        checkpoint_every=every,
        evaluations=evaluations,
        on_eval=scored(objective),
    )
    assert weights(objective) == weights(undisturbed)
    assert steps_of(log) == steps_of(expected)
    assert (log.best_step, log.best_dev) == (expected.best_step, expected.best_dev)


def test_without_resume_a_run_starts_anew(tmp_path):
    run(tmp_path, epochs=3, checkpoint_every=4)
    first, log = run(tmp_path)
    assert newest_checkpoint(tmp_path / "checkpoints").step == 10, "checkpoints of the longer run are gone"
    second, again = run(tmp_path)
    assert steps_of(again) == steps_of(log)
    assert weights(second) == weights(first)


def test_resuming_a_finished_run_trains_nothing(tmp_path):
    first, log = run(tmp_path)
    second, again = run(tmp_path, resume=True)
    assert weights(second) == weights(first)
    assert again.to_json() == log.to_json()


def test_resuming_with_other_parameters(tmp_path):
    run(tmp_path)
    other = ToyObjective()
    other.trainable.lora_A.requires_grad_(False)
    with pytest.raises(SearchtuneError, match="the checkpoint trains other parameters; was the recipe changed"):
        run(tmp_path, resume=True, objective=other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_first(tmp_path, number):
    before = signal.getsignal(number)

    def on_step(step, total):
        if step.step == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(TrainingInterrupted, match="stopped at step 4 of 10; --resume continues from there") as caught:
        run(tmp_path, checkpoint_every=100, on_step=on_step)
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.step == 4
    objective, log = run(tmp_path, resume=True)
    undisturbed, expected = run(tmp_path / "whole")
    assert weights(objective) == weights(undisturbed)
    assert steps_of(log) == steps_of(expected)


def damage_removed(folder):
    (folder / "optimiser.safetensors").unlink()


def damage_truncated(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def damage_flipped(folder):
    file = folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def damage_unmarked(folder):
    (folder / MARKER_FILE).unlink()


@pytest.mark.parametrize("damage", [damage_removed, damage_truncated, damage_flipped, damage_unmarked])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage, keep):
    expected, _ = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "cut", checkpoint_every=2, keep_checkpoints=2, on_step=die_at(7))
    folder = tmp_path / "cut" / "checkpoints"
    assert [path.name for path in sorted(folder.glob("step-*"))] == ["step-000004", "step-000006"]
    damage(folder / "step-000006")
    assert newest_checkpoint(folder).step == 4
    with pytest.raises(KilledError):  # the damaged one neither stands in the way nor outlives better ones
        run(tmp_path / "cut", resume=True, checkpoint_every=1, keep_checkpoints=keep, on_step=die_at(6))
    assert newest_checkpoint(folder).step == 5
    objective, log = run(tmp_path / "cut", resume=True, checkpoint_every=2, keep_checkpoints=keep)
    assert weights(objective) == weights(expected)
    assert len(log.steps) == 10
    assert all(is_complete(path) for path in folder.glob("step-*"))


def test_no_sound_checkpoint_means_starting_from_the_beginning(tmp_path):
    expected, _ = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "cut", checkpoint_every=2, on_step=die_at(3))
    damage_unmarked(tmp_path / "cut" / "checkpoints" / "step-000002")
    assert newest_checkpoint(tmp_path / "cut" / "checkpoints") is None
    objective, _ = run(tmp_path / "cut", resume=True, checkpoint_every=2)
    assert weights(objective) == weights(expected)


def test_no_checkpoint_folder(tmp_path):
    assert newest_checkpoint(tmp_path / "nothing") is None


@pytest.mark.parametrize("full_from", [1, 3, 5])
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch, full_from):
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) >= full_from:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    def on_step(step, total):
        if step.step == 5:
            monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StorageError, match="the disk is full: free some space") as caught:
        run(tmp_path, checkpoint_every=3, on_step=on_step)
    monkeypatch.undo()
    assert "step-000006" in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000003"]
    assert newest_checkpoint(tmp_path / "checkpoints").step == 3
    objective, _ = run(tmp_path, resume=True)
    assert weights(objective) == weights(run(tmp_path / "whole")[0])


def test_a_full_disk_inside_the_tensor_writer(tmp_path):
    """/dev/full refuses like a full disk does; safetensors raises an exception of its own there."""
    from safetensors import SafetensorError

    from searchtune.training import checkpoint

    save_checkpoint(tmp_path, 1, {"w": torch.ones(2)}, {}, {})
    with pytest.MonkeyPatch.context() as patch:

        def full(tensors, file):
            raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(StorageError, match="the disk is full"):
            save_checkpoint(tmp_path, 2, {"w": torch.ones(2)}, {}, {})
    assert newest_checkpoint(tmp_path).step == 1


def test_only_so_many_checkpoints_stay(tmp_path):
    run(tmp_path, checkpoint_every=1, keep_checkpoints=3)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000008", "step-000009", "step-000010"]


def test_a_checkpoint_holds_plain_data_only(tmp_path):
    folder = save_checkpoint(tmp_path, 3, {"w": torch.eye(2).T}, {"w/exp_avg": torch.zeros(2)}, {"log": {"a": 1}})
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert json.loads((folder / "state.json").read_text())["step"] == 3
    found = load_checkpoint(folder)
    assert torch.equal(found.weights["w"], torch.eye(2))
    assert found.state == {"log": {"a": 1}}


def test_a_kill_while_old_checkpoints_are_removed_leaves_no_half_one(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    run(tmp_path, checkpoint_every=3, keep_checkpoints=4)
    before = sorted(path.name for path in folder.iterdir())
    assert len(before) == 4
    monkeypatch.setattr("searchtune.storage.atomic._remove", lambda path: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        prune_checkpoints(folder / before[-1], 2)
    assert sorted(path.name for path in folder.glob("step-*")) == before[1:], "the first is gone as a whole"
    assert all(load_checkpoint(path) for path in folder.glob("step-*"))
    monkeypatch.undo()
    monkeypatch.setattr("searchtune.storage.atomic._abandoned", lambda path: True)  # its process is gone
    run(tmp_path, checkpoint_every=3, keep_checkpoints=4, resume=False)
    assert all(path.name.startswith("step-") for path in folder.iterdir()), "and the next one sweeps it away"

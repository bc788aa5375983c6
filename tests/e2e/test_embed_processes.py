"""Training in processes of its own: killed and resumed, interrupted, spread over two, and reopened in a fresh one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from searchtune.training.checkpoint import newest_checkpoint

TESTS = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

TRAIN = """
import json, os, signal, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from unit.training.tiny import open_world, random_negatives
from searchtune.data.beir import read_beir
from searchtune.specs.recipe import ContrastiveObjective, HardNegatives, LoraMethod, Optimiser
from searchtune.training.contrastive import Texts
from searchtune.training.fit import FitPlan, fit

torch.set_num_threads(1)
MODEL, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
SPEC = ContrastiveObjective(temperature=0.2, hard_negatives=HardNegatives(per_query=1))


def train(out, *, dropout=0.0, batch_size=16, every=100, resume=False, die_at=None, seed=0):
    negatives = random_negatives(read_beir(FOLDER))
    world = open_world(MODEL, FOLDER, LoraMethod(rank=4, alpha=8, top_layers=2, dropout=dropout), negatives)
    objective = world.objective(SPEC, world.texts(400), batch_size=batch_size)
    torch.manual_seed(seed)
    started = []

    def on_step(step, total):
        started.append(step.step)
        if step.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_eval():
        return {"ndcg@10": -sum(float(p.detach().abs().sum()) for p in world.adapter.parameters.values())}

    optim = Optimiser(lr=5e-3, epochs=2, min_steps=0, batch_size=batch_size, checkpoint_every=every)
    log = fit(objective, optim, FitPlan(out, 1, evaluations=4, resume=resume), on_eval=on_eval, on_step=on_step)
    return world, log, started
"""

KILLED = """
def in_a_child(**options):
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        world, log, started = train(**options)
        out = options["out"]
        save_file(world.adapter.state(), out / "end.safetensors")
        losses = [(s.step, s.loss, s.lr, s.grad_norm, s.dev) for s in log.steps]
        (out / "end.json").write_text(json.dumps([losses, log.best_step, log.best_dev, started]))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)


OUT = Path(sys.argv[3])
found = {"whole": in_a_child(out=OUT / "whole", dropout=0.1)}
for every in (1, 2, 3):
    out = OUT / f"every-{every}"
    found[every] = [
        in_a_child(out=out, dropout=0.1, every=every, resume=True, die_at=step, seed=step) for step in (4, 5, 6, 8, 10)
    ]
    found[f"last {every}"] = in_a_child(out=out, dropout=0.1, every=every, resume=True, seed=99)
print(json.dumps(found))
"""

SPREAD = """
from accelerate import PartialState

state = PartialState(cpu=True)
OUT = Path(sys.argv[3])
found = {}
for size in (16, 7):
    world, log, _ = train(OUT / f"{state.num_processes}-{size}", batch_size=size)
    found[size] = [(s.loss, s.grad_norm) for s in log.steps]
    if state.is_main_process:
        save_file(world.adapter.state(), OUT / f"{state.num_processes}-{size}.safetensors")
if state.is_main_process:
    (OUT / f"{state.num_processes}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    import support

    return support.write_collection(tmp_path_factory.mktemp("collection") / "tiny")


def python(*arguments, launcher=()):
    command = [sys.executable, *launcher, *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def script(folder, body):
    file = folder / "script.py"
    file.write_text(textwrap.dedent(TRAIN + body), encoding="utf-8")
    return file


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_and_resumed_it_ends_in_the_same_bits(tiny_model, collection, tmp_path):
    """Dropout is on, so the generators' state matters as well."""
    for name in ("whole", "every-1", "every-2", "every-3"):
        (tmp_path / name).mkdir()
    found = json.loads(python(script(tmp_path, KILLED), tiny_model, collection, tmp_path).splitlines()[-1])
    assert found["whole"] == 0
    *expected, started = json.loads((tmp_path / "whole" / "end.json").read_text())
    assert started == list(range(1, 11))
    weights = load_file(tmp_path / "whole" / "end.safetensors")
    for every in (1, 2, 3):
        assert found[f"last {every}"] == 0
        assert found[str(every)] == [signal.SIGKILL] * 5
        *figures, resumed = json.loads((tmp_path / f"every-{every}" / "end.json").read_text())
        assert figures == expected
        assert resumed[0] == {1: 10, 2: 9, 3: 10}[every], "the last run went on from the newest checkpoint"
        ended = load_file(tmp_path / f"every-{every}" / "end.safetensors")
        assert all(torch.equal(ended[name], tensor) for name, tensor in weights.items())


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tiny_model, collection, tmp_path):
    file = script(tmp_path, SPREAD)
    python(file, tiny_model, collection, tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    python(file, tiny_model, collection, tmp_path, launcher=torchrun)
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    for size in ("16", "7"):
        losses, norms = torch.tensor(one[size]).T
        other_losses, other_norms = torch.tensor(two[size]).T
        torch.testing.assert_close(other_losses, losses, rtol=0, atol=1e-5)
        torch.testing.assert_close(other_norms, norms, rtol=1e-4, atol=0)
        alone, spread = (load_file(tmp_path / f"{count}-{size}.safetensors") for count in (1, 2))
        assert alone.keys() == spread.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(
                spread[name], tensor, rtol=0, atol=1e-4, msg=lambda m, at=(size, name): f"{at}: {m}"
            )


@pytest.fixture
def recipe_file(tiny_model, collection, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(
        f"kind: embed\ntask: {collection}\nbase: {tiny_model}\nmax_tokens: 64\nprecision: fp32\n"
        "method: {rank: 2, alpha: 4, top_layers: 1}\n"
        "optim: {lr: 0.001, epochs: 500, batch_size: 16, checkpoint_every: 1}\ndev: {times: 0}\n",
        encoding="utf-8",
    )
    return file


@pytest.mark.slow
def test_interrupted_at_the_command_line(recipe_file, tmp_path):
    command = [sys.executable, "-m", "searchtune", "embed", "train", str(recipe_file), "--out", str(tmp_path / "run")]
    checkpoints = tmp_path / "run" / "checkpoints"
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not list(checkpoints.glob("step-*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr[-2000:]
    assert "--resume continues from there" in stderr
    assert "Traceback" not in stderr
    found = newest_checkpoint(checkpoints)
    assert found is not None
    assert f"stopped at step {found.step} of 2500" in " ".join(stderr.split())


@pytest.mark.slow
def test_an_adapter_is_opened_in_a_fresh_process(tiny_model, collection, tmp_path):
    """The whole story once, nothing replaced; then a damaged adapter fails in the fresh process too."""
    from searchtune.errors import ArtifactError
    from searchtune.specs.recipe import EmbedRecipe
    from searchtune.workflows.adapter import verify_in_fresh_process
    from searchtune.workflows.embed import train_embedding

    recipe = EmbedRecipe.model_validate(
        {
            "task": str(collection),
            "base": str(tiny_model),
            "max_tokens": 64,
            "precision": "fp32",
            "method": {"rank": 4, "alpha": 8},
            "optim": {"lr": 1e-2, "epochs": 1, "min_steps": 0, "batch_size": 16, "checkpoint_every": 100},
        }
    )
    result = train_embedding(recipe, tmp_path / "run")
    assert result.report.provenance["reload_difference"] <= 1e-5
    damaged = shutil.copytree(result.adapter, tmp_path / "damaged")
    (damaged / "probe_vectors.npy").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"probe_vectors\.npy: 1 bytes where"):
        verify_in_fresh_process(damaged)

"""Claim: two processes never write one run's folder. The second is refused by host and process id, whichever way it was
started and whichever way the first one dies, and what is there in the end is one whole run, to the bit.

Trains a tiny model on a tiny collection, `--trials` times. In turn:

- over a live run, a second start (`--overwrite`, `--resume`, or neither) with another seed; the first goes on
- the same, and the first is killed with SIGKILL meanwhile and then resumed
- the first is killed, and two processes `--resume` it at once
- the first is killed, and another begins anew at once with `--overwrite` and another seed (no lock may be left)

Counts trials with a mixed run: the adapter's bytes are not those of an undisturbed run of the recipe on record, or two
processes wrote at once. Exits with 1 where there is one, or where a second start went through. Processes are forked
from one that has the libraries open, so that their starts are close together; an adapter is verified in the process
that trained it, and no page is drawn.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

KINDS = ("second start on a live run", "the same, first killed", "killed, resumed twice at once", "killed, begun anew")
POLICIES = ("overwrite", "resume", "fail")
REFUSED = re.compile(r"is being written by process (\d+) on host (\S+),")
SEEDS = (13, 14)


def train(recipe: dict[str, Any], out: str, policy: str, log: str) -> None:
    """One process's run; the reason for which it ended goes to `log`."""
    from searchtune.errors import SearchtuneError
    from searchtune.specs.recipe import EmbedRecipe
    from searchtune.workflows import finish, measure
    from searchtune.workflows.adapter import verify_adapter
    from searchtune.workflows.embed import train_embedding

    finish.verify_in_fresh_process = verify_adapter
    measure.write_page = lambda report, file: None  # type: ignore[assignment]
    said = "ended well"
    try:
        train_embedding(EmbedRecipe.model_validate(recipe), Path(out), policy=policy)  # type: ignore[arg-type]
    except SearchtuneError as error:
        said = str(error)
    Path(log).write_text(said, encoding="utf-8")


class Trials:
    """The tiny world, and what an undisturbed run of each seed ends in."""

    def __init__(self, root: Path, moments: random.Random) -> None:
        import support

        self.root, self.moments = root, moments
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["searchtune.workflows.embed", "sentence_transformers", "support"])
        task, base = support.write_collection(root / "tiny"), support.write_bert(root / "model")
        self.recipe = {
            "task": str(task),
            "base": str(base),
            "max_tokens": 64,
            "precision": "fp32",
            "method": {"rank": 4, "alpha": 8, "top_layers": 1},
            "optim": {"lr": 1e-2, "epochs": 6, "batch_size": 16, "checkpoint_every": 2},
            "dev": {"times": 2},
        }
        self.logs = 0
        self.wanted, self.seconds = {}, 0.0
        for seed in SEEDS:
            began = time.perf_counter()
            first = self.start(root / f"undisturbed-{seed}", seed=seed)
            self.ended(first)
            self.seconds = time.perf_counter() - began
            self.wanted[seed] = sha256(root / f"undisturbed-{seed}")

    def start(self, out: Path, policy: str = "fail", *, seed: int = SEEDS[0]) -> tuple[BaseProcess, Path]:
        self.logs += 1
        log = self.root / f"{self.logs}.log"
        process = self.context.Process(target=train, args=({**self.recipe, "seed": seed}, str(out), policy, str(log)))
        process.start()
        return process, log

    def ended(self, started: tuple[BaseProcess, Path]) -> str:
        process, log = started
        process.join()
        return log.read_text(encoding="utf-8") if log.is_file() else "killed"

    def kill(self, started: tuple[BaseProcess, Path], after: float) -> str:
        process = started[0]
        process.join(after)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        return self.ended(started)

    def run(self, number: int) -> tuple[str, str, bool]:
        """Kind, what happened, and whether all is well."""
        kind, out = KINDS[number % len(KINDS)], self.root / f"trial-{number}"
        policy = POLICIES[number // len(KINDS) % len(POLICIES)]
        first = self.start(out)
        while not (out / "recipe.json").is_file() and first[0].is_alive():
            time.sleep(0.01)
        moment = self.moments.uniform(0, self.seconds)
        seed = SEEDS[0]
        if kind == KINDS[0]:
            time.sleep(moment / 2)
            told = [self.ended(self.start(out, policy, seed=SEEDS[1])), self.ended(first)]
            fine = self.was_refused(told[0], first[0])
        elif kind == KINDS[1]:
            second = self.ended(self.start(out, policy, seed=SEEDS[1]))
            alive = self.kill(first, moment / 2)
            told = [second, alive, self.ended(self.start(out, "resume"))]
            fine = self.was_refused(second, first[0])
        elif kind == KINDS[2]:
            died = self.kill(first, moment)
            both = [self.start(out, "resume") for _ in range(2)]
            told = [died, *map(self.ended, both)]
            fine = sum(it == "ended well" for it in told[1:]) == 1 or not any(map(REFUSED.search, told[1:]))
        else:
            died = self.kill(first, moment)
            told = [died, self.ended(self.start(out, "overwrite", seed=SEEDS[1]))]
            fine, seed = told[-1] == "ended well", SEEDS[1]
        kept = json.loads((out / "recipe.json").read_text(encoding="utf-8"))["recipe"]["seed"]
        whole = kept == seed and sha256(out) == self.wanted[seed]
        left = [path.name for path in out.parent.glob(f".{out.name}.*")]
        words = "; ".join("refused" if REFUSED.search(it) else it for it in told)
        return f"{kind} ({policy})" if kind in KINDS[:2] else kind, words, fine and whole and not left

    def was_refused(self, said: str, holder: BaseProcess) -> bool:
        """Whether it was told which process on which host writes there."""
        found = REFUSED.search(said)
        return found is not None and found[1] == str(holder.pid) and found[2] == os.uname().nodename


def sha256(out: Path) -> str:
    return hashlib.sha256((out / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=13, help="of the moments")
    options = parser.parse_args()
    bad, counts = 0, Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), random.Random(options.seed))
        print(f"an undisturbed run takes {trials.seconds:.1f} s")
        for number in range(options.trials):
            kind, words, fine = trials.run(number)
            bad += not fine
            counts[kind, words] += 1
            if not fine:
                print(f"trial {number}: {kind}: {words}", flush=True)
    print("\n| trial | what the processes came to, in order of their start | times |\n| --- | --- | --- |")
    for (kind, words), count in sorted(counts.items()):
        print(f"| {kind} | {words} | {count} |")
    print(f"\n{bad} of {options.trials} trials with a mixed run or a second start that went through")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

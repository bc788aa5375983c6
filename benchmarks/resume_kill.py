"""Claim: a run that is killed with SIGKILL at any moment and resumed ends in the very bytes of an undisturbed run.

Trains once undisturbed, then `--kills` times with a kill: at odd numbers at any moment between start and end, at even
ones while it trains (from the first to the last checkpoint). Each is resumed until it ends, and the sha256 of its
`adapter_model.safetensors` is compared. Exits with 1 where one differs.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

WEIGHTS = Path("adapter") / "adapter_model.safetensors"
RECIPE = "embed/minilm-pystdlib-smoke"
FEW_STEPS = ["optim.batch_size=256", "optim.checkpoint_every=1", "dev.times=2", "precision=fp32"]


@dataclass
class Runner:
    """Starts runs of one recipe."""

    recipe: str
    changes: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, out: Path, *more: str) -> subprocess.Popen[bytes]:
        changes = [word for change in self.changes for word in ("--set", change)]
        command = [
            sys.executable,
            "-m",
            "searchtune",
            "embed",
            "train",
            self.recipe,
            "--out",
            str(out),
            *changes,
            *more,
        ]
        log = (out.parent / f"{out.name}.log").open("ab")
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=self.environment)
        atexit.register(stop, process)
        return process

    def undisturbed(self, out: Path) -> tuple[float, float, float]:
        """Seconds until the first checkpoint, the last one, and the end."""
        start, seen, newest, first, last = time.perf_counter(), "none", "none", 0.0, 0.0
        process = self.start(out)
        while process.poll() is None:
            newest = newest_checkpoint(out)
            if newest != seen:
                seen, last = newest, time.perf_counter() - start
                first = first or last
            time.sleep(0.02)
        self._check(process, out)
        return first, last, time.perf_counter() - start

    def killed(self, out: Path, after: float) -> str:
        """Kill a run `after` so many seconds, resume it to its end, and say where it was."""
        process = self.start(out)
        try:
            process.wait(after)
            where = "had already ended"
        except subprocess.TimeoutExpired:
            stop(process)
            where = (
                f"checkpoint {newest_checkpoint(out)}, adapter {'there' if (out / WEIGHTS).is_file() else 'not there'}"
            )
            again = self.start(out, "--resume")
            again.wait()
            self._check(again, out)
        return where

    def _check(self, process: subprocess.Popen[bytes], out: Path) -> None:
        if process.returncode:
            log = (out.parent / f"{out.name}.log").read_text(encoding="utf-8", errors="replace")
            raise SystemExit(f"the run in {out} ended with {process.returncode}:\n{log[-2000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the process and its children, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def newest_checkpoint(out: Path) -> str:
    return max((folder.name for folder in (out / "checkpoints").glob("step-*")), default="none")


def sha256(out: Path) -> str:
    return hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=13, help="of the moments")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"beside {' '.join(FEW_STEPS)}")
    parser.add_argument("--threads", type=int, default=1, help="sums depend on the number of threads, so it is fixed")
    options = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
    runner = Runner(options.recipe, [*FEW_STEPS, *options.set], environment)
    moments = random.Random(options.seed)
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first, last, end = runner.undisturbed(root / "undisturbed")
        wanted = sha256(root / "undisturbed")
        print(f"undisturbed: {end:.1f} s, checkpoints from {first:.1f} s to {last:.1f} s, sha256 {wanted[:16]}")
        print("\n| kill | after s | found | sha256 | same |\n| --- | --- | --- | --- | --- |")
        for number in range(1, options.kills + 1):
            after = moments.uniform(0, end) if number % 2 else moments.uniform(first, last)
            out = root / f"kill-{number}"
            where = runner.killed(out, after)
            found = sha256(out)
            differ += found != wanted
            print(
                f"| {number} | {after:.1f} | {where} | {found[:16]} | {'yes' if found == wanted else 'NO'} |",
                flush=True,
            )
    print(f"\n{options.kills - differ} of {options.kills} end in the same bytes")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()

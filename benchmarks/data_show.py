"""Time and memory of `searchtune data show` (and of `data check`) on a large collection of short documents.

    OMP_NUM_THREADS=1 python benchmarks/data_show.py --documents 200000

Makes a BEIR folder of documents of 8 to 24 words drawn from 20,000 by Zipf's law, every fiftieth a copy of another one,
runs the commands as a user would, and prints user and system seconds (one core) and peak memory of each.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

WORDS = 20_000
QUERIES = {"train": 1400, "dev": 200, "test": 400}


def make(folder: Path, documents: int) -> None:
    """The collection, the same for the same number of documents."""
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(rng.choices(letters, k=rng.randint(3, 9))) for _ in range(WORDS)]
    weights = list(accumulate(1 / (rank + 1) for rank in range(WORDS)))
    texts = [" ".join(rng.choices(words, cum_weights=weights, k=rng.randint(8, 24))) for _ in range(documents)]
    for place in range(0, documents, 50):
        texts[place] = texts[(7 * place + 3) % documents]
    (folder / "qrels").mkdir(parents=True)
    rows = ({"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries: list[dict[str, str]] = []
    for split, count in QUERIES.items():
        names = [f"q{len(queries) + i}" for i in range(count)]
        queries += [{"_id": name, "text": " ".join(rng.choices(words, cum_weights=weights, k=6))} for name in names]
        labels = "".join(f"{name}\td{rng.randrange(documents)}\t1\n" for name in names)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{labels}")
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200_000)
    documents = parser.parse_args().documents
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "short"
        make(folder, documents)
        for verb in ("show", "check"):
            process = subprocess.Popen(
                [sys.executable, "-m", "searchtune", "data", verb, str(folder)], stdout=subprocess.DEVNULL
            )
            _, _, used = os.wait4(process.pid, 0)
            print(
                f"data {verb}: {used.ru_utime:.1f} s user + {used.ru_stime:.1f} s system, "
                f"{used.ru_maxrss / 1024:.0f} MB at most ({documents:,} documents)"
            )


if __name__ == "__main__":
    main()

"""A language model with its adapter folded in, as a plain Hugging Face folder, and the proof that others open it so.

The folder has config, weights, tokenizer, chat template and generation config, and nothing of ours: vLLM serves it and
transformers opens it. An adapter that was trained on a base in 4 bits is folded into the 16-bit weights: folding it
into 4 bits would round away what was learnt.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from searchtune.errors import ArtifactError
from searchtune.models.cards import copy_license_files
from searchtune.models.quiet import quiet
from searchtune.models.sources import stored_types
from searchtune.types import FloatArray

_BESIDE_WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
MERGED_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""By how much of the largest score (or of 1) rounding the merged weights to a type may move a score."""
_BY_TRANSFORMERS_ALONE = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
asked = json.load(sys.stdin)
where = {"local_files_only": True, **asked["options"]}
model = AutoModelForCausalLM.from_pretrained(asked["folder"], dtype=torch.float32, **where).eval()
tokens = AutoTokenizer.from_pretrained(asked["folder"], **where)(asked["text"], add_special_tokens=False)["input_ids"]
yes, no = asked["entries"]
scores = []
with torch.no_grad():
    for ids in asked["ids"]:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        scores.append(float(logits[yes] - logits[no]))
assert "searchtune" not in sys.modules
print(json.dumps({"scores": scores, "tokens": tokens}))
"""


def stored_dtype(root: Path) -> torch.dtype:
    """The type that most of the base's matrices are stored in."""
    (name, _), *_ = Counter(stored_types(root)).most_common(1)
    dtype: torch.dtype = getattr(torch, name.removeprefix("torch."))
    return dtype if dtype in MERGED_TOLERANCE else torch.bfloat16


@quiet()
def save_language_model(model: Any, root: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write a causal model in `dtype` into the empty `folder`, with the files of its base in `root` around it."""
    model.to(dtype).save_pretrained(str(folder), safe_serialization=True)
    for name in _BESIDE_WEIGHTS:
        if (root / name).is_file():
            shutil.copy2(root / name, folder / name)
    copy_license_files(root, folder)


@quiet()
def open_written(folder: Path, gguf_file: str | None = None) -> Any:
    """The causal model in a plain folder, or in a GGUF file of it, by transformers, in float32."""
    where: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **where)
    return model.eval()


def score_in_fresh_process(
    folder: Path,
    ids: Sequence[Sequence[int]],
    entries: tuple[int, int],
    *,
    text: str = "",
    gguf_file: str | None = None,
) -> tuple[FloatArray, list[int]]:
    """Differences of two logits after each text, and the tokens of `text`, by transformers alone in a new process.

    Weights are widened to float32, so that what is told is the weights and not the arithmetic.

    Shape: (texts,).

    Raises:
        ArtifactError: transformers cannot open the folder, or the GGUF file in it.
    """
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    rows = [[int(token) for token in row] for row in ids]
    asked = {"folder": str(folder), "ids": rows, "entries": list(entries), "text": text, "options": options}
    done = subprocess.run(
        [sys.executable, "-c", _BY_TRANSFORMERS_ALONE],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ArtifactError(f"{folder}: transformers cannot open what was written: {last[0]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return np.array(found["scores"], dtype=np.float32), found["tokens"]

"""A language model's adapter, verified in a fresh process and merged."""

import numpy as np
import pytest
import torch

from searchtune.errors import ArtifactError
from searchtune.models.generator import load_causal_lm
from searchtune.models.llm_artifact import llm_probe_scores
from searchtune.workflows.adapter import export_gguf, merge_adapter, verify_adapter, verify_in_fresh_process
from unit.models.causal import write_byte_causal, write_causal
from unit.models.test_llm_artifact import CPU, TEMPLATE, saved


@pytest.fixture
def adapter(tmp_path):
    base = write_causal(tmp_path / "base", tie_word_embeddings=True)
    (base / "chat_template.jinja").write_text(TEMPLATE)
    return saved(tmp_path / "adapter", base), tmp_path / "adapter"


@pytest.mark.slow
def test_a_fresh_process_gives_the_recorded_scores(adapter):
    card, folder = adapter
    found = verify_in_fresh_process(folder)
    assert max(found.peft, found.sentence_transformers) <= found.tolerance == card.probe.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_an_adapter_is_folded_into_16_bits_and_exported(tmp_path, quantise):
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'searchtune[llm]'")
    if quantise == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")
    base = write_byte_causal(tmp_path / "base", tie_word_embeddings=True)
    (base / "chat_template.jinja").write_text(TEMPLATE)
    saved(tmp_path / "adapter", base, labels=["y", "n"], quantise=quantise)
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    exported = export_gguf(tmp_path / "adapter", tmp_path / "exported")
    for one in (merged, exported):
        assert one.difference <= one.tolerance and one.four_bits == (quantise == "nf4")
    assert (tmp_path / "merged" / "chat_template.jinja").read_text() == TEMPLATE


def test_another_probe_is_noticed_and_a_merged_model_scores_alike(adapter, tmp_path):
    card, folder = adapter
    assert merge_adapter(folder, tmp_path / "merged").difference <= card.probe.tolerance
    merged = load_causal_lm(tmp_path / "merged", dtype=torch.float32, device=CPU)
    recorded = np.load(folder / card.probe.scores_file)
    assert np.abs(llm_probe_scores(merged, card) - recorded).max() <= card.probe.tolerance
    verify_adapter(folder)
    with pytest.raises(ArtifactError):
        np.save(folder / card.probe.scores_file, recorded + 1)
        verify_adapter(folder)

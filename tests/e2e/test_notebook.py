"""Every notebook runs from top to bottom, uses the public API alone, and is kept without outputs."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_the_public_api(path):
    notebook = nbformat.read(path, as_version=4)
    for node in ast.walk(ast.parse("\n".join(code(notebook)))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert not [name for name in names if name and name.startswith("searchtune.")]
    assert not any(cell.get("outputs") for cell in notebook.cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    noise = [output.text for output in shown if output.get("name") == "stderr" and "IProgress" not in output.text]
    assert not noise  # tqdm says where there are no notebook widgets; nothing else has anything to say
    text = "".join(output.get("text", "") for output in shown)
    assert "nDCG@10 went from" in text
    assert any("image/png" in output.get("data", {}) for output in shown)

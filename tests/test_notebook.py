# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
"""The notebook runs from top to bottom, and is kept without outputs."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_no_outputs_are_kept() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def run(monkeypatch, folder: Path, **environment: str) -> tuple[str, set[str]]:
    """What the notebook prints, and the kinds of what it shows, after a short training."""
    nbclient = pytest.importorskip("nbclient", reason='runs the notebook: pip install ".[notebook]"')
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason='runs the notebook: pip install ".[notebook]"')
    for name, value in {"BALLBOT_STEPS": "12000", "TMPDIR": str(folder), **environment}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    return "".join(output.text for output in outputs if output.output_type == "stream"), kinds


def check_export(text: str, folder: Path) -> None:
    (exported,) = folder.glob("*/policy.onnx")
    assert f"policy.onnx: {exported.stat().st_size / 1000:.0f} kB" in text


def test_it_runs_and_films_where_there_is_opengl(monkeypatch, tmp_path: Path) -> None:
    text, kinds = run(monkeypatch, tmp_path)
    assert ("image/gif" in kinds) != ("no film" in text)
    assert ("no OpenGL" in text) == ("no film" in text)
    assert "stands through" in text
    check_export(text, tmp_path)


def test_it_runs_and_without_opengl_plots_instead(monkeypatch, tmp_path: Path) -> None:
    text, kinds = run(monkeypatch, tmp_path, MUJOCO_GL="disabled")
    assert "no OpenGL" in text and "no film" in text
    assert "image/png" in kinds and "image/gif" not in kinds
    check_export(text, tmp_path)

"""The notebook of the Python interface does what it shows."""

import json
from pathlib import Path

import torch
from conftest import ROOT


def test_the_cells_of_the_notebook_run_one_after_another(monkeypatch):
    monkeypatch.chdir(ROOT / "tests")  # where Jupyter starts it
    cells = json.loads((ROOT / "tests" / "python.ipynb").read_text())["cells"]
    names = {"__name__": "__main__"}
    for cell in cells:
        assert not cell.get("outputs"), "the notebook is kept without outputs"
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["trainer"].global_step == 20 and names["images"].shape == (20, 1, 8, 8)
    assert torch.equal(names["gan"].sample(torch.arange(1, 2), torch.tensor([1]))[0], names["images"][1])
    assert names["again"].generator.num_classes == 10
    assert names["plain"].global_step == 5 and names["other"].images_seen == 5 * 3 * 32
    assert len(cells) <= 20
    written = Path(names["FOLDER"], "run", "predictions", "images").iterdir()
    assert sorted(int(path.stem) for path in written) == [3, 7, *range(11, 21)]
    with torch.no_grad():
        expected = names["other"].generator_ema.eval()(names["z"], torch.arange(10))
    assert torch.equal(names["drawn"], expected)

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import analyze, find_score, score_names
from fxgrow.errors import AnalysisError

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from fxgrow.curvature import Measurement, Score, SiteScores


@dataclass(frozen=True)
class FanIn(Score):
    """The number of inputs of each neuron."""

    name: ClassVar[str] = "fan-in"

    def measure(self, probe):
        found = {}
        for path, site in probe.sites.items():
            values = torch.full((site.neurons,), float(site.features), dtype=torch.float64)
            found[path] = SiteScores(values, values, torch.zeros_like(values), sign=self.sign)
        return Measurement(found)


NOT_A_SCORE = 3
'''
ENTRY_POINTS = """[fxgrow.scores]
fan-in = somebodys_scores:FanIn
broken = somebodys_scores:Missing
number = somebodys_scores:NOT_A_SCORE
eigen = somebodys_scores:FanIn
"""
BATCHES = [(torch.eye(4, 3), torch.tensor([0, 1, 0, 1]))] * 2


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package with scores of its own."""
    (tmp_path / "somebodys_scores.py").write_text(PLUGIN)
    metadata = tmp_path / "somebodys_scores-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-scores\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("somebodys_scores", None)


@pytest.mark.usefixtures("installed")
def test_another_package_adds_a_score_by_entry_point():
    assert "fan-in" in score_names()
    scores = analyze(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 2))), F.cross_entropy, BATCHES, score="fan-in")
    assert scores["0"].values.tolist() == [3, 3]


@pytest.mark.usefixtures("installed")
def test_a_built_in_score_cannot_be_replaced():
    assert find_score("eigen").__module__ == "fxgrow.curvature.eigen"
    assert score_names().count("eigen") == 1


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("name", "message"), [("broken", "cannot be loaded"), ("number", "no subclass")])
def test_an_entry_point_that_holds_no_score_is_refused(name, message):
    with pytest.raises(AnalysisError, match=message):
        find_score(name)


def test_importing_the_package_imports_no_optional_library():
    optional = ("timm", "torchvision", "scipy", "curvlinops")
    code = f"import sys, fxgrow.curvature; print([name for name in {optional} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

import re

import pytest
import torch

from fxgrow.curvature.scores import Scores, SiteScores
from fxgrow.errors import FxgrowError
from fxgrow.inspection import to_text, view_node
from fxgrow.record.digest import digest


def test_a_site_in_full(grown, draw):
    values = -torch.arange(1.0, 17.0, dtype=torch.float64)
    sites = {"blocks.0.fc1": SiteScores(values, values / 2, torch.full_like(values, 1.5), matrix="splitting")}
    Scores(sites, score="eigen", digest=digest(grown), samples=256).annotate(grown)
    text = draw(to_text(view_node(grown, "blocks.0.fc1")))
    for expected in (
        r"module\s+torch.nn.modules.linear.Linear\(in_features=8, out_features=16",
        r"output\s+2×3×16 float32",
        r"parameter\s+blocks.0.fc1.weight 16×8",
        r"can grow\s+yes: 16 neurons of 8 features each",
        r"depth\s+14 neurons 0 deep; 2 neurons 2 deep",
        r"the 10 of 16 neurons that ask most for growth \(eigen splitting score\)",
        r"15\s+-16\s+-8 ± 1\.5\s+yes",
        r"⊕ pseudo_0\s+serial",
    ):
        assert re.search(expected, text), expected
    assert re.search(r"reads\s+layer_norm\S*\s+2×3×8", text) or re.search(r"reads\s+blocks_0_norm\s+2×3×8", text)


def test_a_node_of_a_pseudo_layer_says_where_it_comes_from(grown, draw):
    text = draw(to_text(view_node(grown, "blocks.0.fc1_pseudo_0.fc2")))
    assert re.search(r"belongs to\s+blocks.0.fc1_pseudo_0, grown at blocks.0.fc1", text)
    assert re.search(r"made by\s+insert-pseudo-layers, edit 0", text)


def test_a_container_is_drawn_as_a_tree(grown, draw):
    text = draw(to_text(view_node(grown, "blocks.3")))
    assert text.startswith("blocks.3\n")
    assert "fc1" in text
    assert "head" not in text


def test_a_parameter_and_a_node_by_name(base, draw):
    assert re.search(r"parameter\s+position 1×3×8", draw(to_text(view_node(base, "position"))))
    assert "Linear" in draw(to_text(view_node(base, "head")))


@pytest.mark.parametrize("path", ["blocks.0.fc3", "nothing", ""])
def test_an_unknown_name_gets_close_matches(base, path):
    with pytest.raises(FxgrowError, match="the model has nothing of this name") as caught:
        view_node(base, path)
    assert path != "blocks.0.fc3" or "did you mean 'blocks.0." in str(caught.value)
    assert "\n" not in str(caught.value)

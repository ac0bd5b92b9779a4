"""What a new parameter hangs on."""

import torch
import torch.fx as fx
from torch import Tensor, nn

from fxgrow.graph.hosts import find_hosts, nearest_site
from fxgrow.passes.insert_pseudo_layers import InsertPseudoLayers


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.scale = nn.LayerNorm(4), nn.Linear(4, 6), nn.Parameter(torch.ones(6))
        self.fc2, self.last = nn.Linear(6, 4), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fc2(self.fc1(self.norm(x)) * self.scale))


def hosts(*names: str) -> dict[str, str]:
    return {name: site.path for name, site in find_hosts(fx.symbolic_trace(Net()), names).items()}


def test_a_parameter_hangs_on_the_site_above_its_reader() -> None:
    assert hosts("scale", "last.weight") == {"scale": "fc1", "last.weight": "fc2"}


def test_where_no_site_is_above_it_hangs_on_the_one_below() -> None:
    assert hosts("norm.bias") == {"norm.bias": "fc1"}


def test_a_new_bias_hangs_on_its_own_site_and_a_new_site_on_the_one_above() -> None:
    assert hosts("fc2.bias") == {"fc2.bias": "fc2"}
    assert hosts("fc2.weight", "fc2.bias") == {"fc2.weight": "fc1", "fc2.bias": "fc1"}


def test_a_parameter_that_nothing_reads_hangs_on_nothing() -> None:
    assert hosts("nowhere.weight") == {}


def test_a_pseudo_layer_hangs_on_the_site_that_grew_and_not_on_what_it_reads() -> None:
    traced = fx.symbolic_trace(Net())
    grown = InsertPseudoLayers({"fc2": (0, 2)}, "gated")(traced).graph_module
    names = tuple(name for name, _ in grown.named_parameters() if "pseudo" in name)
    assert names
    assert {site.path for site in find_hosts(grown, names).values()} == {"fc2"}


def test_the_nearest_site_is_found_upwards() -> None:
    traced = fx.symbolic_trace(Net())
    by_name = {node.name: node for node in traced.graph.nodes}
    found = [nearest_site(traced, by_name[name]) for name in ("norm", "mul", "fc2")]
    assert [site.path if site else None for site in found] == [None, "fc1", "fc2"]

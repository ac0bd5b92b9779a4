"""What a model returns keeps its class, as far as a graph and a file go."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.passes import parse
from fxgrow.testing import Draws

Pair = namedtuple("Pair", ("out", "hidden"))


@dataclass
class Record:
    out: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Optional:
    out: Tensor
    hidden: Tensor
    loss: Tensor | None = None
    layers: int = 2


class Attributes(dict):
    """A dict whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class Choosy(dict):
    """A dict that nothing but its own keywords can make."""

    def __init__(self, *, out: Tensor, hidden: Tensor) -> None:
        super().__init__(out=out, hidden=hidden)


def with_default(out: Tensor, hidden: Tensor) -> defaultdict:
    made = defaultdict(list)
    made.update(out=out, hidden=hidden)
    return made


class Network(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind, self.first, self.last = kind, nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x).relu()
        return self.kind(out=self.last(hidden), hidden=hidden)


@pytest.mark.parametrize("kind", [dict, OrderedDict, Attributes, Pair, Record, Optional])
def test_the_class_of_the_output_is_kept_through_growth_and_files(kind, tmp_path):
    x = Draws(0, dtype=torch.float32).normal(3, 4)
    traced = fxgrow.trace(Network(kind), x)
    grown = parse('insert-pseudo-layers{rows={"first":[0]}}')(traced).graph_module
    fxgrow.save(grown, tmp_path / "model.pt")
    for graph_module in (traced, grown, fxgrow.load(tmp_path / "model.pt", base=Network(kind))):
        assert type(graph_module(x)) is kind
    fxgrow.verify(traced, grown)


def test_a_dict_with_a_default_is_a_dict_to_its_reader():
    x = Draws(0, dtype=torch.float32).normal(3, 4)
    assert type(fxgrow.trace(Network(with_default), x)(x)) is dict


def test_a_dict_that_cannot_be_made_again_is_refused_by_the_name_of_its_class():
    with pytest.raises(fxgrow.errors.TraceError, match="it is a dict and should be a Choosy"):
        fxgrow.trace(Network(Choosy), Draws(0, dtype=torch.float32).normal(3, 4))

import re

import torch
from torch import nn

import fxgrow
from fxgrow.inspection import list_parameters, to_text


def test_every_parameter_has_a_verdict(base, draw):
    rows = {row.name: row for row in list_parameters(base).rows}
    assert set(rows) == set(dict(base.named_parameters()))
    assert rows["blocks.0.fc1.bias"].verdict == "yes, at blocks.0.fc1"
    assert rows["head.weight"].verdict == "only if head is included by name"
    assert not rows["position"].grows
    assert rows["position"].verdict == "no, it is read by add, which is no linear map"
    assert not rows["blocks.0.norm.weight"].grows
    assert "norm" in rows["blocks.0.norm.weight"].verdict.lower()
    text = draw(to_text(list_parameters(base)))
    assert re.search(r"blocks.0.fc1.weight\s+16×8\s+yes, at blocks.0.fc1", text)
    assert re.search(r"[\d,]+ of [\d,]+ parameters \(\d+ %\) can grow", text)


def test_what_stays_whole_says_so():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.lstm(x)[0])

    traced = fxgrow.trace(Model(), torch.randn(3, 2, 4), check=False)
    verdicts = {row.name: row.verdict for row in list_parameters(traced).rows}
    assert verdicts["lstm.weight_ih_l0"].startswith("no, ")
    assert "LSTM" in verdicts["lstm.weight_ih_l0"]


def test_a_tied_weight_gives_its_refusal():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    verdicts = [row.verdict for row in list_parameters(fxgrow.trace(model, torch.randn(3, 4), check=False)).rows]
    assert any("tied" in verdict or "shared" in verdict for verdict in verdicts), verdicts

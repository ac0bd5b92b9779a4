"""Models that compute their loss themselves where labels are given, as Hugging Face's do."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

import fxgrow
from fxgrow.record.record import record_of
from fxgrow.testing import Draws, random_scores


class WithLoss(nn.Module):
    """Makes its loss, a module, in its forward, and ties the weights of its two ends."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.head(F.gelu(self.hidden(self.embedding(ids))))
        if targets is None:
            return logits[:, [-1]], None
        return logits, nn.CrossEntropyLoss(ignore_index=-1)(logits.flatten(0, 1), targets.flatten())


IDS, TARGETS = torch.tensor([[1, 2, 3], [4, 5, 8]]), torch.tensor([[2, 3, 4], [5, 8, -1]])


def test_a_loss_that_forward_makes_is_traced_with_its_labels_as_an_input():
    model = WithLoss()
    traced = fxgrow.trace(model, (IDS, TARGETS))
    assert record_of(traced).trace_policy["leaves"] == []
    assert {"hidden"} <= set(fxgrow.find_sites(traced))
    for targets in (TARGETS, TARGETS.flip(0)):
        assert torch.equal(traced(IDS, targets)[1], model(IDS, targets)[1])
    assert fxgrow.trace(model, IDS)(IDS)[1] is None


def test_bert_with_labels_is_traced_grows_and_returns_its_own_kind_of_output():
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_labels": 3}
    config = BertConfig(num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16, **sizes)
    model = BertForSequenceClassification(config)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 2])}
    traced = fxgrow.trace(model, inputs)
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.05)
    fxgrow.verify(model, grown, inputs)
    output = grown(**inputs)
    assert isinstance(output, SequenceClassifierOutput)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in fxgrow.new_parameters(grown).values())


class MakesALayer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.BatchNorm1d(4)(x)


def test_a_module_with_a_state_that_forward_makes_keeps_the_module_around_it_whole():
    x = Draws(dtype=torch.float32).normal(3, 4)
    traced = fxgrow.trace(nn.Sequential(nn.Linear(4, 4), MakesALayer()), x)
    (note,) = record_of(traced).trace_notes
    assert note.startswith(
        "1 stays whole: cannot be traced: its forward makes a BatchNorm1d, which has a state of its own"
    )
    with pytest.raises(fxgrow.FxgrowError, match="its forward makes a BatchNorm1d"):
        fxgrow.trace(MakesALayer(), x)

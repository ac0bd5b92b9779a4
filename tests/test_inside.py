"""A part of a model that cannot be traced as a whole grows where it lies, by one call."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AnalysisError, PlanError, TraceError
from fxgrow.record.record import record_of
from fxgrow.testing import Draws
from fxgrow.training import Growing


class Doubtful(nn.Module):
    """Decides by values, which no trace follows, and asks its part for an attribute."""

    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.calls = calls
        self.body = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout(0.1), nn.Linear(6, 6))
        self.body.width = 6
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x if x.sum() > 0 else -x
        features = sum(self.body(x) for _ in range(self.calls))
        return self.head(features.reshape(-1, self.body.width))


def made(calls: int = 1) -> Doubtful:
    torch.manual_seed(0)
    return Doubtful(calls).double()


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    draws = Draws(2)
    return [(draws.normal(140, 4), torch.arange(140) % 3) for _ in range(count)]


def grown(model: nn.Module, **options: Any) -> Growing:
    return fxgrow.grow_inside(model, "body", F.cross_entropy, batches(), **{"budget": 30, **options})


def test_the_part_grows_twice_in_place_and_the_model_computes_what_it_did() -> None:
    model = made().eval()
    before = model(batches()[0][0])
    part = grown(model)
    assert grown(model, seed=1) is part is model.body
    assert len(record_of(part.graph_module).history) == 2
    torch.testing.assert_close(model(batches()[0][0]), before, rtol=1e-12, atol=1e-12)
    assert type(model) is Doubtful
    assert "body.0.weight" in model.state_dict()


def test_one_optimizer_of_the_whole_model_takes_in_what_is_new() -> None:
    model = made()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        grown(model, optimizer=optimizer)
        F.cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
        optimizer.step()
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in model.parameters()]
    assert set(optimizer.state) == set(model.parameters())


def test_scores_of_a_part_are_those_of_the_whole_model_traced() -> None:
    whole = nn.Sequential(made().body, made().head)
    traced = fxgrow.trace(copy.deepcopy(whole), batches()[0][0])
    part = fxgrow.trace_inside(whole, "0", batches()[0][0])
    of_whole = fxgrow.analyze(traced, F.cross_entropy, batches(), iterations=6)
    of_part = fxgrow.analyze(part, F.cross_entropy, batches(), iterations=6, place=fxgrow.Place(whole, "0"))
    for path in of_part:
        torch.testing.assert_close(of_part[path].values, of_whole[f"0.{path}"].values, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(of_part[path].stderr, of_whole[f"0.{path}"].stderr, rtol=1e-10, atol=1e-14)


def test_a_copy_of_the_model_grows_by_itself_and_keeps_the_attributes_of_the_part() -> None:
    model = made()
    grown(model)
    copied = copy.deepcopy(model)
    grown(copied, seed=1)
    assert (len(record_of(model.body.graph_module).history), len(record_of(copied.body.graph_module).history)) == (1, 2)
    assert copied.body.width == 6


def test_a_batch_that_does_not_repeat_itself_is_read_once() -> None:
    model = made()
    fxgrow.grow_inside(model, "body", F.cross_entropy, iter(batches()), budget=30)
    assert record_of(model.body.graph_module).history


def test_a_model_inside_data_parallel_or_compiled_grows_where_it_is() -> None:
    model = made()
    part = fxgrow.grow_inside(torch.compile(model, backend="eager"), "body", F.cross_entropy, batches(), budget=30)
    assert part is model.body


class Returning(Doubtful):
    """Returns its loss, as models of transformers do."""

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output = super().forward(x)
        return {"loss": F.cross_entropy(output, labels), "logits": output}


def test_a_model_that_returns_its_loss_is_scored_by_it() -> None:
    torch.manual_seed(0)
    model = Returning().double()
    data = [{"x": x, "labels": y} for x, y in batches()]
    part = fxgrow.grow_inside(model, "body", None, data, budget=30)
    event = record_of(part.graph_module).history[0]
    assert event.context["loss_before"] == pytest.approx(event.context["loss_after"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": "spine"}, TraceError, "no submodule lies there; .* body, head"),
        ({"budget": 1}, PlanError, "budget"),
        ({"batches": []}, AnalysisError, "there is no batch"),
        ({"calls": 2}, AnalysisError, "body: the model calls it 2 times for one batch; name a larger part"),
        ({"include": ["nothing"]}, AnalysisError, "nothing"),
    ],
    ids=["no such part", "no budget", "no data", "called twice", "no such site"],
)
def test_what_is_refused_leaves_everything_as_it_was(change: dict[str, Any], error: type, message: str) -> None:
    model = made(change.pop("calls", 1))
    part, optimizer = model.body, torch.optim.SGD(model.parameters())
    held = list(optimizer.param_groups[0]["params"])
    options = {"path": "body", "budget": 30, "batches": batches(), **change}
    with pytest.raises(error, match=message):
        fxgrow.grow_inside(model, options.pop("path"), F.cross_entropy, options.pop("batches"), optimizer=optimizer,
                           **options)  # fmt: skip
    assert model.body is part
    assert "forward" not in vars(part)
    assert all(a is b for a, b in zip(held, optimizer.param_groups[0]["params"], strict=True))


def test_a_part_that_is_compiled_by_hand_is_refused_and_one_compiled_by_options_grows() -> None:
    model, example = made().eval(), batches()[0][0]
    before = model(example)
    fxgrow.trace_inside(model, "body", example, compile_options={"backend": "eager"})
    part = grown(model)
    torch.testing.assert_close(model(example), before, rtol=1e-12, atol=1e-12)
    model.body = fxgrow.compile(part.graph_module, backend="eager")
    with pytest.raises(TraceError, match="body: it is compiled or wrapped"):
        grown(model)


def test_a_grower_grows_a_part_by_its_schedule_and_a_fresh_model_takes_the_state() -> None:
    def run(model: nn.Module) -> fxgrow.Grower:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        part = fxgrow.trace_inside(model, "body", batches()[0][0])
        options = {"within": model, "budget": 60, "at": (1, 2), "compile": False}
        grower = fxgrow.Grower(part, F.cross_entropy, optimizer, **options)
        assert grower.model is model.body
        return grower

    first, second = made(), made()
    grower, resumed = run(first), run(second)
    for epoch in range(3):
        if grower.due(epoch):
            grower.grow(batches())
        F.cross_entropy(first(batches()[0][0]), batches()[0][1]).backward()
        grower.optimizer.step()
    second.load_state_dict(first.state_dict())
    assert len(resumed.history) == 2
    assert [id(p) for p in resumed.optimizer.param_groups[0]["params"]] == [id(p) for p in second.parameters()]
    assert torch.equal(second.eval()(batches()[0][0]), first.eval()(batches()[0][0]))


def test_a_detectors_backbone_grows_by_the_detectors_loss() -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2))
    backbone.out_channels = 8
    anchors = detection.anchor_utils.AnchorGenerator(((16,),), ((1.0,),))
    model = detection.FasterRCNN(backbone, 3, min_size=64, max_size=64, rpn_anchor_generator=anchors)
    boxes = [{"boxes": torch.tensor([[5.0, 5.0, 30.0, 30.0]]), "labels": torch.tensor([1])}] * 2
    draws = Draws(3, torch.float32)
    data = [(([draws.uniform(3, 64, 64) for _ in range(2)], boxes), None) for _ in range(2)]

    def loss(losses: dict[str, Tensor], _: None) -> Tensor:
        return sum(losses.values(), torch.zeros(()))

    options = {"samples": lambda batch: len(batch[0][0]), "budget": 0.5, "include": ["2"]}
    with pytest.warns(UserWarning, match="fewer than"):
        part = fxgrow.grow_inside(model, "backbone", loss, data, **options)
    assert part is model.backbone
    assert part.out_channels == 8
    assert set(model.eval()(data[0][0][0])[0]) == {"boxes", "labels", "scores"}


def test_a_hugging_face_model_keeps_its_class_its_config_and_its_ways_to_save(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, num_labels=3, **sizes))
    words = torch.arange(48).reshape(8, 6) % 30
    batch = {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": torch.arange(8) % 3}
    with pytest.warns(UserWarning, match="fewer than"):
        part = fxgrow.grow_inside(model, "bert.encoder", None, [batch, batch], budget=0.1)
    assert type(model(**batch)).__name__ == "SequenceClassifierOutput"
    assert part.config is model.config
    model.save_pretrained(tmp_path)
    saved = pytest.importorskip("safetensors.torch").load_file(tmp_path / "model.safetensors")
    assert set(dict(model.named_parameters())) <= set(saved)

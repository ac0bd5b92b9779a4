"""What libraries read off a model they read off its graph, traced or grown, copied or unpickled."""

import copy
import pickle
from dataclasses import dataclass, field

import pytest
import timm
import torch
import transformers
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import TraceError
from fxgrow.passes import parse
from fxgrow.testing import Draws


@dataclass
class Config:
    width: int = 6
    names: list[str] = field(default_factory=lambda: ["a", "b"])


class Recipe:
    head_name = "last"

    def without_decay(self) -> set[str]:
        return {"scale"}


class Model(Recipe, nn.Module):
    main_input_name = "x"

    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.act = lambda x: x.relu()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x))) * self.scale

    def without_decay(self) -> set[str]:
        return super().without_decay() | {name for name, p in self.named_parameters() if p.dim() == 1}

    def head(self) -> nn.Module:
        return getattr(self, self.head_name)

    def features(self, x: Tensor) -> Tensor:
        return self.first(x)

    def loss(self, x: Tensor) -> Tensor:
        return self(x).square().mean()

    def enable_checkpointing(self) -> None:
        self.checkpointing = True

    def enable_in_parts(self) -> None:
        self._enable_in_parts()

    def _enable_in_parts(self) -> None:
        if not any(hasattr(module, "checkpointing") for module in self.children()):
            raise ValueError("no part can do that")

    @property
    def width(self) -> int:
        return self.config.width

    @classmethod
    def named(cls) -> str:
        return cls.main_input_name

    @staticmethod
    def twice(number: int) -> int:
        return 2 * number


def inputs() -> Tensor:
    return Draws(dtype=torch.float32).normal(5, 4)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def traced(model):
    return fxgrow.trace(model, inputs())


def test_data_methods_and_properties_of_the_model_are_those_of_its_graph(model, traced) -> None:
    assert traced.config is model.config
    assert (traced.main_input_name, traced.width, traced.named(), traced.twice(4)) == ("x", 6, "x", 8)
    assert traced.without_decay() == model.without_decay() == {"scale", "first.bias", "last.bias"}
    assert traced.head() is model.last
    assert not hasattr(traced, "act")


def test_methods_see_what_has_grown(traced) -> None:
    grown = parse('insert-pseudo-layers{rows={"first":[0,2]} operator="serial"}')(traced).graph_module
    assert "first_pseudo_0.fc1.bias" in grown.without_decay()
    assert grown.config is traced.config


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_and_pickles_answer_with_data_of_their_own(traced, copied) -> None:
    other = copied(traced)
    other.config.names.append("c")
    assert traced.config.names == ["a", "b"]
    assert other.without_decay() == traced.without_decay()
    assert torch.equal(other.loss(inputs()), traced.loss(inputs()))


def test_a_model_of_a_class_that_nobody_can_import_is_pickled_without_its_methods() -> None:
    class Local(Model):
        pass

    traced = fxgrow.trace(Local(), inputs())
    assert traced.without_decay()
    assert torch.equal(pickle.loads(pickle.dumps(traced))(inputs()), traced(inputs()))


def test_a_method_that_calls_the_whole_runs_and_one_that_calls_a_part_is_refused(traced) -> None:
    assert torch.equal(traced.loss(inputs()), traced(inputs()).square().mean())
    with pytest.raises(TraceError, match="its features calls first by itself"):
        traced.features(inputs())
    assert torch.equal(traced.loss(inputs()), traced(inputs()).square().mean())


def test_a_method_that_sets_what_the_graph_does_not_read_is_refused_and_sets_nothing(traced) -> None:
    with pytest.raises(TraceError, match="its enable_checkpointing sets checkpointing"):
        traced.enable_checkpointing()
    assert traced.checkpointing is False
    traced.checkpointing = True  # whoever sets it from outside has asked for no effect
    assert traced.checkpointing


def test_an_error_of_the_models_own_says_that_it_was_a_graph_on_which_a_method_ran(traced) -> None:
    with pytest.raises(ValueError, match="no part can do that") as raised:
        traced.enable_in_parts()
    (note,) = raised.value.__notes__
    assert "call enable_in_parts on the model, and trace the model after that" in note


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_checkpointing_of_transformers_is_refused_on_a_graph_with_the_reason() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=20, **sizes))
    traced = fxgrow.trace(model, {"input_ids": torch.arange(10).reshape(2, 5)}, check=False)
    with pytest.raises(ValueError, match="gradient checkpointing") as raised:
        traced.gradient_checkpointing_enable()
    assert "call gradient_checkpointing_enable on the model" in raised.value.__notes__[0]


def test_the_graph_compiles_as_one(traced) -> None:
    compiled = torch.compile(traced, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(inputs()), traced(inputs()))


def test_timms_optimizers_make_the_groups_of_the_model() -> None:
    options = {"img_size": 32, "patch_size": 8, "num_classes": 3, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", **options)
    traced = fxgrow.trace(model, Draws(dtype=torch.float32).normal(2, 3, 32, 32))

    def groups(module: nn.Module) -> list[tuple[object, ...]]:
        names = {parameter: name for name, parameter in module.named_parameters()}
        optimizer = create_optimizer_v2(module, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
        return [
            (group["weight_decay"], group["lr_scale"], sorted(names[p] for p in group["params"]))
            for group in optimizer.param_groups
        ]

    assert "cls_token" in traced.no_weight_decay()
    assert groups(traced) == groups(model)
    assert len(groups(model)) > 4

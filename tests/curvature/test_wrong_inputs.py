"""`analyze` says in its own words what does not fit, and takes the loss that a model computes itself."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.curvature import Scores, analyze
from fxgrow.errors import AnalysisError, FxgrowError

pytestmark = pytest.mark.filterwarnings("ignore::fxgrow.curvature.FewSamplesWarning")
RANDOM = np.random.default_rng(0)
X, TARGET = torch.from_numpy(RANDOM.standard_normal((12, 6))).float(), torch.arange(12) % 3


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))


def _traced():
    return torch.fx.symbolic_trace(_model())


def _broken(output: Tensor, target: Tensor) -> Tensor:
    raise KeyError("labels")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((F.cross_entropy, X), "batches: it is a Tensor, not an iterable"),
        ((F.cross_entropy, 7), "batches: it is an int; give pairs"),
        ((F.cross_entropy, {"x": X}), "batches: it is a dict"),
        ((F.cross_entropy, [X]), r"batch 0: it is not a pair"),
        ((F.cross_entropy, [(X[:, :5], TARGET)]), "batch 0: the model fails on it"),
        ((F.cross_entropy, [(X, TARGET), (X, TARGET + 9)]), "batch 1: the loss function fails on it"),
        ((_broken, [(X, TARGET)]), "batch 0: the loss function fails on it: 'labels'"),
        (("cross_entropy", [(X, TARGET)]), "loss_fn: it is a str"),
        ((lambda output, target: 1.0, [(X, TARGET)]), "it is a float, not a tensor"),
        ((None, [X]), "the loss of batch 0: the model has none"),
    ],
)
def test_what_does_not_fit_is_told(arguments, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        analyze(_traced(), *arguments)


@pytest.mark.parametrize("options", [{"score": 3}, {"score": F.gelu}, {"sites": 5}, {"sites": [5]}, {"seed": "x"}])
def test_a_wrong_option_is_told(options) -> None:
    with pytest.raises(AnalysisError, match=next(iter(options))):
        analyze(_traced(), F.cross_entropy, [(X, TARGET)], **options)


def test_a_model_that_is_not_traced_is_told() -> None:
    for model in (_model(), "model", None):
        with pytest.raises(FxgrowError, match=r"it is no (traced model|nn\.Module)"):
            analyze(model, F.cross_entropy, [(X, TARGET)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("score", ["eigen", "residual", "gain"])
def test_a_model_that_diverged_is_told(value: float, score: str) -> None:
    traced = _traced()
    with torch.no_grad():
        traced.get_submodule("0").weight[0, 0] = value
    with pytest.raises(AnalysisError, match="the loss of batch 0: it is "):
        analyze(traced, F.cross_entropy, [(X, TARGET)], score=score)


class WithLoss(nn.Module):
    """Computes its loss itself; `form` says how it returns it."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.form = _model(), form

    def forward(self, x: Tensor, labels: Tensor):
        logits = self.body(x)
        return self.form(logits, F.cross_entropy(logits, labels))


FORMS = {
    "the loss alone": lambda logits, loss: loss,
    "a pair": lambda logits, loss: (logits, loss),
    "a dict": lambda logits, loss: {"loss": loss, "temperature": logits.mean(), "logits": logits},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("score", ["eigen", "gradient", "hessian"])
def test_a_loss_inside_the_model_gives_the_scores_of_the_same_loss_outside(form, by_name: bool, score: str) -> None:
    model = WithLoss(form)
    traced = torch.fx.symbolic_trace(model)
    inside = [{"x": X, "labels": TARGET} if by_name else (X, TARGET) for _ in range(2)]
    found = analyze(traced, None, inside, score=score)
    expected = analyze(torch.fx.symbolic_trace(model.body), F.cross_entropy, [(X, TARGET)] * 2, score=score)
    assert isinstance(found, Scores)
    assert found.samples == 24
    for path in expected:
        torch.testing.assert_close(found[f"body.{path}"].values, expected[path].values)
        torch.testing.assert_close(found[f"body.{path}"].held_out, expected[path].held_out)


def test_several_scalars_without_a_name_are_no_loss() -> None:
    traced = torch.fx.symbolic_trace(WithLoss(lambda logits, loss: (loss, logits.mean())))
    with pytest.raises(AnalysisError, match="2 scalars in the model's output that may be it"):
        analyze(traced, None, [(X, TARGET)])


def test_a_grower_grows_a_model_that_computes_its_loss_itself() -> None:
    traced = torch.fx.symbolic_trace(WithLoss(FORMS["a pair"]))
    optimizer = torch.optim.AdamW(traced.parameters())
    grower = fxgrow.Grower(traced, None, optimizer, budget=0.5, at=(0,), compile=False)
    report = grower.grow([(X, TARGET), (X, TARGET)])
    assert report.loss_after == pytest.approx(report.loss_before, rel=1e-5)

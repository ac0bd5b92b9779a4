import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.curvature import Scores, StepRecorder, analyze
from fxgrow.errors import AnalysisError
from fxgrow.testing import Draws

X = Draws().normal(24, 4)
TARGET = torch.arange(24) % 3


def _model(activation=None):
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), activation or nn.GELU(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)
    return torch.fx.symbolic_trace(nn.Sequential(*layers).double())


def _step(recorder, x, target):
    F.cross_entropy(recorder(x), target).backward()


def test_a_training_steps_own_passes_give_the_scores_of_an_analysis():
    graph_module = _model()
    expected = analyze(graph_module, F.cross_entropy, [(X, TARGET)])
    recorder = StepRecorder(graph_module)
    _step(recorder, X, TARGET)
    scores = recorder.scores()
    assert list(scores) == list(expected)
    for path in expected:
        assert scores[path].matrix == expected[path].matrix
        for name in ("values", "held_out", "stderr"):
            torch.testing.assert_close(getattr(scores[path], name), getattr(expected[path], name))
    assert list(Scores.from_annotations(graph_module)) == list(expected)


def test_it_trains_as_the_model_does():
    graph_module, plain = _model(), _model()
    F.cross_entropy(plain(X), TARGET).backward()
    _step(StepRecorder(graph_module), X, TARGET)
    for (name, trained), reference in zip(graph_module.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(trained.grad, reference.grad), name
    for trained, reference in zip(graph_module.buffers(), plain.buffers(), strict=True):
        assert torch.equal(trained, reference)


def test_steps_of_an_accumulated_gradient_are_the_batches_of_an_analysis():
    graph_module = _model().eval()
    recorder = StepRecorder(graph_module, sites=["0", "4"])
    for part in (slice(0, 10), slice(10, 24)):
        _step(recorder, X[part], TARGET[part])
    scores = recorder.scores()
    expected = analyze(graph_module, F.cross_entropy, [(X[:10], TARGET[:10]), (X[10:], TARGET[10:])], sites=["0", "4"])
    for path in expected:
        torch.testing.assert_close(scores[path].held_out, expected[path].held_out)
    assert scores.samples == 24


def test_scores_forget_the_batches_they_were_made_of():
    recorder = StepRecorder(_model())
    _step(recorder, X[:12], TARGET[:12])
    recorder.scores()
    _step(recorder, X[12:], TARGET[12:])
    assert recorder.scores().samples == 12


def test_without_backward_there_are_no_scores():
    recorder = StepRecorder(_model())
    recorder(X)
    with pytest.raises(AnalysisError, match=r"call loss.backward\(\)"):
        recorder.scores()


def test_without_a_step_there_are_no_scores():
    with pytest.raises(AnalysisError, match="no step"):
        StepRecorder(_model()).scores()


def test_what_an_in_place_operation_changed_is_refused_and_a_traced_model_works():
    recorder = StepRecorder(_model(nn.ReLU(inplace=True)))
    _step(recorder, X, TARGET)
    with pytest.raises(AnalysisError, match=r"fxgrow\.trace"):
        recorder.scores()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double()
    traced = StepRecorder(fxgrow.trace(model, X))
    _step(traced, X, TARGET)
    assert set(traced.scores()) == {"0", "2"}

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import FewSamplesWarning, Scores, analyze, find_score, score_names
from fxgrow.errors import AnalysisError, PlanError, TraceError
from fxgrow.record.annotations import annotation
from fxgrow.testing import Draws


def _model():
    torch.manual_seed(0)
    return torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3)).double())


X, TARGET = Draws(1).normal(20, 4), torch.arange(20) % 3
BATCHES = [(X[:12], TARGET[:12]), (X[12:], TARGET[12:])]


def _same(first, second):
    assert set(first) == set(second)
    for path in first:
        assert torch.equal(first[path].values, second[path].values)
        assert torch.equal(first[path].held_out, second[path].held_out)
        assert torch.equal(first[path].stderr, second[path].stderr)


@pytest.mark.parametrize(
    "batches",
    [
        lambda: tuple(BATCHES),
        lambda: iter(BATCHES),
        lambda: (batch for batch in BATCHES),
        lambda: [list(batch) for batch in BATCHES],
        lambda: [((x,), target) for x, target in BATCHES],
        lambda: [([x], target) for x, target in BATCHES],
        lambda: [({"input": x}, target) for x, target in BATCHES],
    ],
    ids=["tuple", "iterator", "generator", "pairs as lists", "inputs in a tuple", "inputs in a list", "inputs by name"],
)
def test_batches_come_in_many_forms(batches):
    _same(analyze(_model(), F.cross_entropy, batches()), analyze(_model(), F.cross_entropy, BATCHES))


def test_a_loader_that_shuffles_gives_the_same_scores_twice_and_leaves_the_random_state():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, TARGET), batch_size=8, shuffle=True)
    model = _model()
    state = torch.get_rng_state()
    first = analyze(model, F.cross_entropy, loader)
    assert torch.equal(torch.get_rng_state(), state)
    _same(first, analyze(_model(), F.cross_entropy, loader))


def test_a_target_may_be_any_structure():
    def loss(output, target):
        return F.cross_entropy(output, target["labels"][0])

    batches = [(x, {"labels": [target]}) for x, target in BATCHES]
    _same(analyze(_model(), loss, batches), analyze(_model(), F.cross_entropy, BATCHES))


def test_reading_stops_when_there_are_enough_samples():
    scores = analyze(_model(), F.cross_entropy, BATCHES, max_samples=10)
    assert scores.samples == 12
    _same(scores, analyze(_model(), F.cross_entropy, BATCHES[:1]))


def test_few_images_give_a_warning_where_they_are_given_and_enough_do_not():
    with pytest.warns(FewSamplesWarning, match=r"256 samples \(20\)") as warned:
        analyze(_model(), F.cross_entropy, BATCHES)
    assert [warning.filename for warning in warned] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analyze(_model(), F.cross_entropy, BATCHES * 13)


def test_sites_are_chosen_by_path_and_by_pattern():
    assert list(analyze(_model(), F.cross_entropy, BATCHES, sites=["2"])) == ["2"]
    assert list(analyze(_model(), F.cross_entropy, BATCHES, sites=["[0-2]"])) == ["0", "2"]


def test_a_wrapped_model_is_unwrapped():
    compiled = torch.compile(_model(), backend="eager")
    _same(analyze(compiled, F.cross_entropy, BATCHES), analyze(_model(), F.cross_entropy, BATCHES))


def test_tied_weights_are_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    model[2].weight = model[0].weight
    scores = analyze(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES)
    assert list(scores) == ["3"]
    assert "tied" in scores.refusals["0"]


def _empty_batch():
    return [(X[:0], TARGET[:0])]


def _nan(output, target):
    return F.cross_entropy(output, target) * torch.nan


def _exhausted():
    iterator = iter(BATCHES)
    list(iterator)
    return iterator


@pytest.mark.parametrize(
    ("loss", "batches", "options", "message"),
    [
        (F.cross_entropy, [], {}, "batches: there is no batch in it"),
        (F.cross_entropy, _exhausted(), {}, "used up"),
        (F.cross_entropy, _empty_batch(), {}, "batch 0: it is empty"),
        (F.cross_entropy, [X], {}, "batch 0: it is not a pair"),
        (F.cross_entropy, [(3, TARGET)], {}, "batch 0: there is no tensor"),
        (F.cross_entropy, [(X[:1], TARGET[:1])], {}, "one sample cannot be split"),
        (F.cross_entropy, [((X, X), TARGET)], {}, "batch 0"),
        (F.cross_entropy, [({"other": X}, TARGET)], {}, "other"),
        (lambda o, t: F.cross_entropy(o, t, reduction="none"), BATCHES, {}, r"batch 0: it has shape \(12,\)"),
        (lambda o, t: 1.0, BATCHES, {}, "batch 0: it is a float"),
        (lambda o, t: torch.tensor(1.0), BATCHES, {}, "does not depend on the model's output"),
        (_nan, BATCHES, {}, "batch 0: it is nan"),
        (F.cross_entropy, [BATCHES[0], (X * torch.inf, TARGET)], {}, "batch 1: it is nan"),
        (F.cross_entropy, BATCHES, {"score": "egien"}, "did you mean 'eigen'"),
        (F.cross_entropy, BATCHES, {"sites": ["9"]}, "9: no site has this module path"),
        (F.cross_entropy, BATCHES, {"iterations": 0}, "iterations 0: it is not positive; give 1 or more"),
        (F.cross_entropy, BATCHES, {"settled": 2.0}, "settled 2.0: it is no rank correlation"),
        (F.cross_entropy, BATCHES, {"max_memory": 100}, "max_memory"),
        (F.cross_entropy, BATCHES, {"max_samples": -1}, "max_samples -1"),
    ],
)
def test_bad_input_is_one_clear_line(loss, batches, options, message):
    graph_module = _model()
    with pytest.raises(AnalysisError, match=message) as raised:
        analyze(graph_module, loss, batches, **options)
    assert "\n" not in str(raised.value)
    assert not any("scores" in annotation(node) for node in graph_module.graph.nodes)


def test_an_untraced_model_is_refused():
    with pytest.raises(TraceError, match="it is no traced model"):
        analyze(nn.Linear(4, 3), F.cross_entropy, BATCHES)


def test_a_model_without_sites_is_refused():
    with pytest.raises(AnalysisError, match="no linear map"):
        analyze(torch.fx.symbolic_trace(nn.ReLU()), F.cross_entropy, BATCHES)


def test_scores_are_written_on_the_nodes_and_read_back():
    graph_module = _model()
    scores = analyze(graph_module, F.cross_entropy, BATCHES)
    again = Scores.from_annotations(copy.deepcopy(graph_module))
    _same(again, scores)
    assert (again.score, again.digest, again.samples) == (scores.score, scores.digest, scores.samples)
    assert [again[path].matrix for path in again] == ["splitting", "branch"]
    assert [again[path].reliability for path in again] == [scores[path].reliability for path in scores]


def test_a_second_analysis_replaces_all_that_the_first_one_wrote():
    graph_module = _model()
    analyze(graph_module, F.cross_entropy, BATCHES)
    analyze(graph_module, F.cross_entropy, BATCHES, score="branch", sites=["2"])
    again = Scores.from_annotations(graph_module)
    assert (list(again), again.score) == (["2"], "branch")


def test_reading_scores_that_are_not_there_or_stale_is_refused():
    graph_module = _model()
    with pytest.raises(PlanError, match="carry no scores"):
        Scores.from_annotations(graph_module)
    analyze(graph_module, F.cross_entropy, BATCHES)
    output = graph_module.graph.output_node()
    with graph_module.graph.inserting_before(output):
        output.args = (graph_module.graph.call_function(torch.tanh, output.args),)
    with pytest.raises(PlanError, match="another graph"):
        Scores.from_annotations(graph_module)


def test_every_registered_score_has_its_own_name_and_a_docstring():
    for name in score_names():
        score = find_score(name)
        assert score.name == name
        assert score.__doc__

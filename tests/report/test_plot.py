"""The pictures: what is drawn is what the model says."""

import numpy as np
import pytest
from matplotlib import pyplot

import fxgrow
from fxgrow.errors import AnalysisError, DataError
from fxgrow.files import describe
from fxgrow.plot.depth import depth_colours
from fxgrow.plot.moments import moments
from fxgrow.plot.style import DASHES, MARKERS, SERIES
from fxgrow.results import read_results


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    pyplot.close("all")


def test_the_depth_map_is_drawn_cell_by_cell(grown) -> None:
    axes = fxgrow.plot.depth_map(grown)
    drawn, depths = axes.images[0].get_array(), fxgrow.depth_map(grown)
    sites = [label.get_text() for label in axes.get_yticklabels()]
    assert sites == ["stem", *(f"blocks.{block}.fc{layer}" for block in range(3) for layer in (1, 2))]
    for line, site in enumerate(sites):
        assert drawn[line].compressed().tolist() == depths[site]
    assert len(axes.lines) == 3, "a line between two blocks"


def test_a_network_that_did_not_grow_has_a_depth_map_too(batches) -> None:
    from .conftest import Network

    axes = fxgrow.plot.depth_map(fxgrow.trace(Network(blocks=1), batches[0][0]))
    assert np.unique(axes.images[0].get_array().compressed()).tolist() == [0]


def test_deeper_is_darker() -> None:
    colours = [sum(int(colour[place : place + 2], 16) for place in (1, 3, 5)) for colour in depth_colours(9)]
    assert len(set(colours)) == 10
    assert colours == sorted(colours, reverse=True)


def test_scores_stand_at_their_values_with_their_errors(grown) -> None:
    axes = fxgrow.plot.scores(grown)
    found = moments(describe(grown))
    assert [moment.label for moment in found] == ["event 1 (epoch 1)", "event 2 (epoch 2)", "now"]
    drawn = sorted(value for bars in axes.containers for value in np.atleast_1d(bars.lines[0].get_xdata()).tolist())
    assert drawn == sorted(site.held_out for moment in found for site in moment.sites)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [moment.label for moment in found]


def test_moments_are_chosen_by_their_place(grown) -> None:
    axes = fxgrow.plot.scores(grown, at=[-1])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["now"]
    with pytest.raises(AnalysisError, match=r"it has scores of 3 moments, and \[7\] are asked for"):
        fxgrow.plot.scores(grown, at=[7])


def test_a_model_without_scores_is_told_to_measure(batches) -> None:
    from .conftest import Network

    with pytest.raises(AnalysisError, match=r"fxgrow\.analyze"):
        fxgrow.plot.scores(fxgrow.trace(Network(), batches[0][0]))


def test_history_draws_each_model_of_a_run(folder) -> None:
    axes = fxgrow.plot.history(read_results(folder), "test_loss")
    lines = {line.get_label(): line.get_ydata() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["grown", "base"]
    assert lines["base"] == pytest.approx([2.2, 1.95, 1.7, 1.45, 1.2])
    assert [text.get_text() for text in axes.texts] == ["▲1", "▲2"]


def test_history_of_a_model_is_its_parameters(grown) -> None:
    axes = fxgrow.plot.history(grown)
    history = grown.meta["fxgrow"].history
    sizes = [size for event in history for size in (event.parameters_before, event.parameters_after)]
    assert axes.lines[0].get_ydata().tolist() == sizes


def test_a_metric_that_is_not_there_is_refused_by_name(folder) -> None:
    with pytest.raises(DataError, match="test_los: there is no such metric; did you mean 'test_loss'"):
        fxgrow.plot.history(read_results(folder), "test_los")


def test_pictures_are_drawn_where_one_says(grown) -> None:
    _, own = pyplot.subplots(1, 3)
    assert fxgrow.plot.depth_map(grown, axes=own[0]) is own[0]
    assert fxgrow.plot.scores(grown, axes=own[1]) is own[1]
    assert fxgrow.plot.history(grown, axes=own[2]) is own[2]


def test_series_differ_in_more_than_colour() -> None:
    assert len(set(SERIES)) == len(set(MARKERS)) == len(set(DASHES)) == 6

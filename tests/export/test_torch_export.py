"""A grown model is an exportable one."""

import pytest
import torch

import fxgrow


def test_the_exported_program_computes_what_the_grown_model_computes(grown, inputs) -> None:
    program = torch.export.export(grown, (inputs,)).module()
    assert torch.equal(program(inputs), grown(inputs))


def test_the_batch_size_may_stay_open(grown, inputs) -> None:
    program = torch.export.export(grown, (inputs,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for size in (1, 2, 7):
        images = torch.randn(size, *inputs.shape[1:])
        torch.testing.assert_close(program(images), grown(images), rtol=1e-6, atol=1e-6)


def test_the_program_keeps_the_names_of_the_parameters(grown, inputs) -> None:
    program = torch.export.export(grown, (inputs,))
    assert set(program.state_dict) == set(grown.state_dict())


def test_an_exported_program_comes_back_as_a_graph_that_can_grow_further(grown, inputs) -> None:
    retraced = fxgrow.trace(torch.export.export(grown, (inputs,)), inputs)
    growable = {path for path, site in fxgrow.find_sites(retraced).items() if site.refusal is None}
    assert {path for path, site in fxgrow.find_sites(grown).items() if site.refusal is None} <= growable


@pytest.mark.parametrize("strict", [True, False])
def test_both_ways_of_exporting_work_in_train_mode_too(grown, inputs, strict) -> None:
    grown.train()
    program = torch.export.export(grown, (inputs,), strict=strict).module()
    torch.manual_seed(3)
    expected = grown(inputs)
    torch.manual_seed(3)
    torch.testing.assert_close(program(inputs), expected, rtol=1e-6, atol=1e-6)

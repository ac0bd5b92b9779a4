"""A growing model under torch.compile."""

import torch

from tests.progressive.conftest import data, halves, model


def test_every_stage_compiles_by_block_and_advance_reuses_what_is_compiled() -> None:
    compiled = []

    def backend(graph_module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph_module)
        return graph_module

    growing, (x, _) = halves(model()), data()
    growing.compile(backend=backend)
    expected = halves(model())(x)
    assert torch.equal(growing(x), expected)
    count = len(compiled)
    growing.advance()
    growing(x)
    assert len(compiled) == count


def test_torch_compile_of_the_whole_follows_each_advance_and_compiles_once_a_stage() -> None:
    torch._dynamo.reset()
    growing, (x, _) = halves(model()), data()
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiled = torch.compile(growing, backend=backend)
    for stage in range(2):
        for _ in range(3):
            torch.testing.assert_close(compiled(x), growing(x))
        assert len(graphs) == stage + 1
        if not stage:
            growing.advance()
    assert growing.samples == [2 * 3 * len(x)] * 2

import copy
import gc
import os
import subprocess
import sys
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from fxgrow.errors import TraceError
from fxgrow.graph.sharing import share
from fxgrow.primitives.modules import add_module
from fxgrow.record.provenance import PseudoLayerNode, mark
from fxgrow.training import CompileWarning, compilation
from fxgrow.training.blocks import cut

# torch looks at .grad of the inputs of a compiled function, and hides the warning only where it is no error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


class Block(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.fc2(F.gelu(self.fc1(F.layer_norm(x, x.shape[-1:], self.scale)))))


class Model(nn.Module):
    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.token = nn.Parameter(torch.zeros(8))
        self.blocks = nn.ModuleList([Block() for _ in range(depth)])
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor, shift: float = 0.0) -> Tensor:
        x = self.embed(x) + self.token + shift
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Residual(nn.Module):
    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride, 1)
        self.norm, self.act = nn.BatchNorm2d(channels), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)) + x[..., : self.conv.in_channels])


def traced_model(depth: int = 4) -> fx.GraphModule:
    torch.manual_seed(0)
    return fx.symbolic_trace(Model(depth))


def grow_block(traced: fx.GraphModule, index: int, path: str) -> fx.GraphModule:
    """Add a second linear map to the output of fc1 in one block."""
    grown = share(traced)
    call = next(node for node in grown.graph.nodes if node.target == f"blocks.{index}.fc1")
    add_module(grown, path, nn.Linear(16, 16))
    with grown.graph.inserting_after(call):
        extra = grown.graph.call_module(path, (call,))
    with grown.graph.inserting_after(extra):
        added = grown.graph.call_function(torch.add, (call, extra))
    mark(added, PseudoLayerNode(path, f"blocks.{index}.fc1"))
    call.replace_all_uses_with(added, delete_user_cb=lambda user: user not in (extra, added))
    grown.recompile()
    return grown


def counter(backend: str = "eager") -> Any:
    return CompileCounterWithBackend(backend)


def batch(size: int = 5) -> Tensor:
    return torch.randn(size, 6, generator=torch.Generator().manual_seed(1))


def test_a_graph_is_cut_at_its_blocks() -> None:
    pieces = cut(traced_model(3))
    assert [piece.label for piece in pieces] == ["", "blocks.0", "blocks.1", "blocks.2", ""]
    assert pieces[1].leaves == {"leaf_0": "blocks.0.fc1", "leaf_1": "blocks.0.fc2", "leaf_2": "blocks.0.drop"}


def test_blocks_may_have_a_stem_before_their_number() -> None:
    blocks = (nn.Sequential(nn.Linear(3, 3), nn.GELU()) for _ in range(3))
    model = nn.Sequential(OrderedDict((f"encoder_layer_{index}", block) for index, block in enumerate(blocks)))
    pieces = cut(fx.symbolic_trace(model))
    assert [piece.label for piece in pieces] == [f"encoder_layer_{index}" for index in range(3)]
    backend = counter()
    compilation.compile(fx.symbolic_trace(model), backend=backend)(torch.randn(2, 3, requires_grad=True))
    assert backend.frame_count == 1


def test_layers_in_a_sequence_are_no_blocks() -> None:
    layers = nn.Sequential(*[nn.Linear(3, 3) for _ in range(4)])
    assert [piece.label for piece in cut(fx.symbolic_trace(layers))] == [""]
    assert [piece.label for piece in cut(fx.symbolic_trace(nn.Sequential(layers, copy.deepcopy(layers))))] == ["0", "1"]


def test_a_large_block_is_cut_at_its_inner_blocks() -> None:
    stage = nn.Sequential(*[nn.Sequential(*[nn.Linear(2, 2) for _ in range(50)]) for _ in range(3)])
    labels = [piece.label for piece in cut(fx.symbolic_trace(nn.Sequential(stage, nn.Sequential(nn.ReLU()))))]
    assert labels == ["0.0", "0.1", "0.2", "1"]


def test_the_pieces_compute_what_the_graph_computes() -> None:
    traced = traced_model().eval()
    compiled = compilation.compile(traced, backend="aot_eager", fullgraph=True)
    outputs = {}
    for model in (traced, compiled):
        model.zero_grad()
        output = model(batch(), shift=0.5)
        output.square().mean().backward()
        outputs[model] = (output.detach(), {name: p.grad.clone() for name, p in traced.named_parameters()})
    torch.testing.assert_close(outputs[traced], outputs[compiled], rtol=1e-6, atol=1e-6)


def test_convolutions_with_in_place_activations_agree_in_training_mode() -> None:
    torch.manual_seed(0)
    stem = nn.Conv2d(3, 4, 3)
    traced = fx.symbolic_trace(nn.Sequential(stem, nn.Sequential(Residual(4), Residual(4)), nn.Flatten()))
    other = copy.deepcopy(traced)
    compiled = compilation.compile(other, backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, 10, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        torch.testing.assert_close(compiled(images), traced(images))
    torch.testing.assert_close(dict(other.named_buffers()), dict(traced.named_buffers()))


def test_equal_blocks_are_compiled_once() -> None:
    backend = counter()
    compiled = compilation.compile(traced_model(depth=6), backend=backend, fullgraph=True)
    for _ in range(3):
        compiled(batch())
    assert backend.frame_count == 3, "the stem, the block and the head"


def test_only_the_blocks_that_changed_are_compiled_again() -> None:
    backend, traced = counter(), traced_model()
    compiled = compilation.compile(traced, backend=backend, fullgraph=True)
    compiled(batch())
    backend.frame_count = 0
    grown = grow_block(traced, 2, "blocks.2.fc1_pseudo_0")
    compiled = compilation.compile(grown, backend=backend, fullgraph=True)
    compiled(batch())
    assert compiled.pieces == ("", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "")
    assert backend.frame_count == 1


@torch._dynamo.config.patch(recompile_limit=2, accumulated_recompile_limit=4)
def test_growth_events_never_reach_the_recompile_limit() -> None:
    backend, model = counter(), traced_model(depth=2)
    compiled = compilation.compile(model, backend=backend, fullgraph=True)
    for event in range(7):
        compiled(batch())
        assert backend.frame_count == (1 if event else 3)
        model = grow_block(model, 0, f"blocks.0.fc1_pseudo_{event}")
        compiled = compilation.compile(model, backend=backend, fullgraph=True)
        backend.frame_count = 0
    torch.testing.assert_close(compiled.eval()(batch()), model(batch()))


def test_blocks_that_grew_alike_are_equal_again() -> None:
    backend, model = counter(), traced_model(2)
    model = grow_block(grow_block(model, 0, "blocks.0.fc1_pseudo_0"), 1, "blocks.1.fc1_pseudo_0")
    compilation.compile(model, backend=backend, fullgraph=True)(batch())
    assert backend.frame_count == 3


def test_dropout_and_batch_norm_follow_train_and_eval() -> None:
    traced = traced_model()
    compiled = compilation.compile(traced, backend="eager")
    assert not torch.equal(compiled.train()(batch()), compiled(batch()))
    assert traced.training
    assert torch.equal(compiled.eval()(batch()), compiled(batch()))
    assert not traced.training
    assert not traced.blocks.get_submodule("0.drop").training
    traced.train()
    assert not torch.equal(compiled(batch()), compiled(batch()))


def test_state_and_parameters_are_those_of_the_graph() -> None:
    traced = traced_model()
    compiled = compilation.compile(traced, backend="eager")
    assert list(compiled.state_dict()) == list(traced.state_dict())
    assert all(mine is its for mine, its in zip(compiled.parameters(), traced.parameters(), strict=True))
    compiled.to(torch.float64)
    assert compiled(batch().double()).dtype == torch.float64
    assert traced(batch().double()).dtype == torch.float64


def test_new_weights_are_seen_after_loading() -> None:
    traced = traced_model().eval()
    compiled = compilation.compile(traced, backend="eager")
    compiled(batch())
    state = {name: torch.zeros_like(value) for name, value in traced.state_dict().items()}
    compiled.load_state_dict(state, assign=True)
    assert not compiled(batch()).any()


def test_several_batch_sizes_and_no_grad_work() -> None:
    traced = traced_model().eval()
    compiled = compilation.compile(traced, backend="aot_eager", fullgraph=True)
    for size in (5, 3, 7, 4):
        torch.testing.assert_close(compiled(batch(size)), traced(batch(size)))
        with torch.no_grad():
            torch.testing.assert_close(compiled(batch(size)), traced(batch(size)))


def test_a_copy_is_independent() -> None:
    compiled = compilation.compile(traced_model().eval(), backend="eager")
    twin = copy.deepcopy(compiled)
    with torch.no_grad():
        twin.head.bias.add_(1)
    torch.testing.assert_close(twin(batch()), compiled(batch()) + 1)


def test_compiled_code_is_dropped_with_the_last_model_that_uses_it() -> None:
    compiled = compilation.compile(traced_model(1), backend=counter())
    structure = weakref.ref(compiled._steps[1].structure)
    del compiled
    gc.collect()
    assert structure() is None


def failing_backend(*_: Any) -> Any:
    raise RuntimeError("no compiler on this machine\nand much more")


def test_a_backend_that_fails_is_told_once_and_the_model_runs_eager() -> None:
    traced = traced_model()
    compiled = compilation.compile(traced, backend=failing_backend)
    with pytest.warns(CompileWarning, match=r"running eager: .*no compiler on this machine$") as caught:
        output = compiled(batch())
    assert len(caught) == 1
    assert traced.norm.num_batches_tracked == 1, "nothing ran twice"
    compiled.eval()
    torch.testing.assert_close(compiled(batch()), traced(batch()))
    again = compilation.compile(grow_block(traced, 0, "blocks.0.extra"), backend=failing_backend)
    assert again(batch()).shape == output.shape


def test_a_graph_break_is_an_error_under_fullgraph() -> None:
    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x + 1

    graph = fx.Graph()
    graph.output(graph.call_module("inner", (graph.placeholder("x"),)))
    broken = fx.GraphModule({"inner": Breaks()}, graph)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compilation.compile(broken, backend="eager", fullgraph=True)(batch())


def test_a_plain_module_is_refused() -> None:
    with pytest.raises(TraceError, match=r"Linear: it is no traced model; trace it first"):
        compilation.compile(nn.Linear(2, 2))  # type: ignore[arg-type]


def test_inductor_trains_a_model_that_grows() -> None:
    traced = traced_model(2).eval()
    compiled = compilation.compile(traced, fullgraph=True)
    torch.testing.assert_close(compiled(batch()), traced(batch()))
    grown = grow_block(traced, 1, "blocks.1.extra")
    compiled = compilation.compile(grown, fullgraph=True)
    compiled(batch()).sum().backward()
    torch.testing.assert_close(compiled(batch()), grown(batch()))
    assert all(parameter.grad is not None for parameter in grown.parameters())


def test_without_a_compiler_one_line_says_so(tmp_path: Path) -> None:
    program = (
        "import torch, torch.fx as fx, fxgrow\n"
        "traced = fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU()))\n"
        "print(tuple(fxgrow.compile(traced)(torch.ones(2, 3)).shape))\n"
    )
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "(2, 3)\n"
    warnings = [line for line in done.stderr.splitlines() if "CompileWarning" in line]
    assert len(warnings) == 1
    assert "torch.compile does not work here, running eager" in warnings[0]

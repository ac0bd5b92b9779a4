"""Residual blocks and the ends of their branches are found on the graph, whatever their modules are called."""

from collections.abc import Callable

import pytest
import torch
import torch.fx as fx
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.graph.blocks import Block, find_blocks, runs
from fxgrow.graph.branch_ends import BranchEnds
from fxgrow.graph.residual import find_steps


class Custom(nn.Module):
    """A chain of steps that a function makes, with six channels."""

    def __init__(self, step: Callable[["Custom", Tensor, int], Tensor], blocks: int = 3) -> None:
        super().__init__()
        self.blocks, self.step = blocks, step
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(blocks))
        self.ups = nn.ModuleList(nn.Linear(6, 9) for _ in range(blocks))
        self.downs = nn.ModuleList(nn.Linear(9, 6) for _ in range(blocks))
        self.squares = nn.ModuleList(nn.Linear(6, 6) for _ in range(blocks))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(6)) for _ in range(blocks))
        self.start = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(x)
        for index in range(self.blocks):
            x = self.step(self, x, index)
        return x.tanh()

    def mlp(self, x: Tensor, index: int) -> Tensor:
        return self.downs[index](F.gelu(self.ups[index](x)))


def traced(step: Callable[[Custom, Tensor, int], Tensor]) -> fx.GraphModule:
    return fxgrow.trace(Custom(step), torch.zeros(2, 6), check=False)


def ends_of(graph_module: fx.GraphModule, block: Block) -> list[tuple[str, ...]]:
    ends = BranchEnds(graph_module)
    return [end.parameters for step in block.steps for branch in step.branches for end in ends.of(branch)]


@pytest.mark.parametrize(
    ("step", "end"),
    [
        (lambda m, x, i: x + m.mlp(m.norms[i](x), i), ("downs.1.weight", "downs.1.bias")),
        (lambda m, x, i: F.dropout(m.mlp(x, i), 0.1, m.training) + x, ("downs.1.weight", "downs.1.bias")),
        (lambda m, x, i: x + m.scales[i] * m.mlp(x, i), ("scales.1",)),
        (lambda m, x, i: x + m.mlp(x, i) * m.scales[i], ("scales.1",)),
        (lambda m, x, i: x + m.norms[i](m.mlp(x, i)), ("norms.1.weight", "norms.1.bias")),
        (lambda m, x, i: x + m.mlp(x, i).reshape(-1, 2, 3).flatten(1) / 2, ("downs.1.weight", "downs.1.bias")),
        (lambda m, x, i: m.norms[i](x + m.mlp(x, i)), ("downs.1.weight", "downs.1.bias")),
        (lambda m, x, i: x + m.squares[i](x).sigmoid() * m.mlp(x, i), ("downs.1.weight", "downs.1.bias")),
    ],
)
def test_the_end_of_a_branch_is_its_last_linear_map_or_the_scale_or_norm_behind_it(step, end) -> None:  # type: ignore[no-untyped-def]
    graph_module = traced(step)
    found = find_blocks(graph_module)
    assert [len(run) for run in runs(found)] == [3]
    assert ends_of(graph_module, found[1]) == [end]


def test_branches_side_by_side_are_one_step() -> None:
    graph_module = traced(lambda m, x, i: x + m.mlp(m.norms[i](x), i) + m.squares[i](m.norms[i](x)))
    blocks = find_blocks(graph_module)
    assert [len(block.steps) for block in blocks] == [1, 1, 1]
    assert ends_of(graph_module, blocks[0]) == [
        ("downs.0.weight", "downs.0.bias"),
        ("squares.0.weight", "squares.0.bias"),
    ]


def test_a_gate_that_is_made_from_the_end_is_not_linear_in_it() -> None:
    def squeeze(m: Custom, x: Tensor, i: int) -> Tensor:
        h = m.mlp(x, i)
        return x + h * m.squares[i](h).sigmoid()

    graph_module = traced(squeeze)
    (step, *_) = find_steps(graph_module).values()
    assert [end.linear for end in BranchEnds(graph_module).of(step.branches[0])] == [False]


def test_steps_behind_a_norm_are_no_identity_at_zero() -> None:
    behind = find_steps(traced(lambda m, x, i: m.norms[i](x + m.mlp(x, i))))
    before = find_steps(traced(lambda m, x, i: x + m.mlp(m.norms[i](x), i)))
    assert [step.identity_at_zero for step in behind.values()] == [False] * 3
    assert [step.identity_at_zero for step in before.values()] == [True] * 3


def test_the_norm_behind_the_last_block_is_not_a_part_of_it() -> None:
    model = nn.Sequential(Custom(lambda m, x, i: x + m.mlp(x, i)), nn.LayerNorm(6))
    blocks = find_blocks(fxgrow.trace(model, torch.zeros(2, 6), check=False))
    assert len({block.kind for block in blocks}) == 1


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda m, x, i: x + m.downs[0](m.ups[i](x)), "it shares weights with downs.0"),
        (lambda m, x, i: x * 2 + m.mlp(x, i), None),
        (lambda m, x, i: m.mlp(x, i), None),
    ],
)
def test_what_is_no_block_of_its_own_is_left_out_with_the_reason(step, reason) -> None:  # type: ignore[no-untyped-def]
    blocks = find_blocks(traced(step))
    assert runs(blocks) == []
    assert {block.refusal for block in blocks} == ({reason} if reason else set())


def test_what_is_read_from_inside_a_block_stands_in_its_way() -> None:
    class Peeking(Custom):
        def forward(self, x: Tensor) -> Tensor:
            hidden = []
            for index in range(self.blocks):
                hidden.append(F.gelu(self.ups[index](x)))
                x = x + self.downs[index](hidden[-1])
            return x.tanh() + hidden[0].sum()

    blocks = find_blocks(fxgrow.trace(Peeking(lambda *_: torch.empty(0)), torch.zeros(2, 6), check=False))
    assert [block.refusal is None for block in blocks] == [False, True, True]
    assert "inside it is read outside" in str(blocks[0].refusal)


def test_dropout_rates_do_not_make_another_kind_and_shifts_do() -> None:
    rates = traced(lambda m, x, i: x + nn.functional.gelu(m.squares[i](x)) + m.mlp(x, i))
    shifts = traced(lambda m, x, i: x + m.mlp(x.roll(i % 2, -1), i))
    assert len({block.kind for block in find_blocks(rates)}) == 1
    assert [len(run) for run in runs(find_blocks(shifts))] == [2, 1]


def zoo() -> dict[str, tuple[Callable[[], nn.Module], object, list[int]]]:
    import timm
    import torchvision
    import transformers
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    image, tokens = torch.zeros(2, 3, 16, 16), {"input_ids": torch.zeros(2, 8, dtype=torch.int64)}
    small = {"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 12, "num_heads": 2, "num_classes": 3}
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    vit = transformers.ViTConfig(**sizes, image_size=16, patch_size=8)
    bert = transformers.BertConfig(**sizes, vocab_size=20, max_position_embeddings=8)
    gpt = transformers.GPT2Config(n_embd=12, n_layer=3, n_head=2, vocab_size=20, n_positions=8, use_cache=False,
                                  bos_token_id=0, eos_token_id=0)  # fmt: skip
    llama = transformers.LlamaConfig(**sizes, vocab_size=20, use_cache=False)
    deit = {"drop_path_rate": 0.1, "init_values": 1e-4}
    return {
        "DeiT with LayerScale and drop path": (
            lambda: timm.create_model("deit_tiny_patch16_224", **small, **deit), image, [3]
        ),
        "torchvision's ViT": (lambda: torchvision.models.VisionTransformer(16, 8, 3, 2, 12, 16), image, [3]),
        "ConvNeXt": (lambda: ConvNeXt([CNBlockConfig(6, 8, 2), CNBlockConfig(8, None, 3)]), image, [2, 3]),
        "ResNet": (
            lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [2, 3, 1, 1]), image, [2, 2]
        ),
        "Swin": (
            lambda: torchvision.models.SwinTransformer([2, 2], 8, [4], [2], [2, 2], num_classes=3), image, [2, 2]
        ),
        "ViT of transformers": (lambda: transformers.ViTModel(vit), image, [3]),
        "BERT": (lambda: transformers.BertModel(bert), tokens, [3]),
        "GPT-2": (lambda: transformers.GPT2LMHeadModel(gpt), tokens, [3]),
        "Llama": (lambda: transformers.LlamaForCausalLM(llama), tokens, [3]),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(zoo()))
def test_blocks_of_model_families_are_found_in_runs_and_all_their_branches_have_ends(name: str) -> None:
    make, inputs, lengths = zoo()[name]
    graph_module = fxgrow.trace(make(), inputs, check=False)
    found = runs(find_blocks(graph_module))
    assert [len(run) for run in found if len(run) > 1] == lengths
    ends = BranchEnds(graph_module)
    for run in found:
        for block in run:
            assert all(len(ends.of(branch)) == 1 for step in block.steps for branch in step.branches)

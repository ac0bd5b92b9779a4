"""Attention heads and gated neurons: found in the graph, and scored by the Hessian of their local surrogate."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fxgrow.curvature import analyze_units
from fxgrow.curvature.units import find_units, rows_of_units
from fxgrow.errors import AnalysisError
from fxgrow.graph.sites import site_input
from fxgrow.testing import Draws

X = Draws().normal(6, 4, 4)
TARGET = torch.arange(6) % 3
BATCHES = [(X[:4], TARGET[:4]), (X[4:], TARGET[4:])]


class _Fused(nn.Module):
    """timm's layout: one map for q, k and v, the heads inside."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.qkv, self.proj, self.dropout = nn.Linear(4, 12), nn.Linear(4, 4), dropout

    def heads(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)

    def merge(self, heads):
        return self.proj(heads.transpose(1, 2).flatten(2))

    def forward(self, x):
        return self.merge(self.heads(x))


class _Explicit(nn.Module):
    """Three maps, and attention written out with a mask and a softmax."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(4, 4) for _ in range(4))
        self.register_buffer("mask", torch.zeros(4, 4).double())

    def heads(self, x):
        q, k, v = (m(x).unflatten(-1, (2, 2)).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1) / 2**0.5 + self.mask
        return F.dropout(scores.softmax(-1), 0.0) @ v

    def merge(self, heads):
        return self.proj(heads.transpose(1, 2).flatten(2))

    def forward(self, x):
        return self.merge(self.heads(x))


class _SwiGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 4)

    def units(self, x):
        return F.silu(self.gate(x)) * self.up(x)

    def forward(self, x):
        return self.down(self.units(x))


class _GEGLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.both, self.down = nn.Linear(4, 10), nn.Linear(5, 4)

    def units(self, x):
        value, gate = self.both(x).chunk(2, dim=-1)
        return value * F.gelu(gate)

    def forward(self, x):
        return self.down(self.units(x))


class _Model(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


def _model(kind, **options):
    torch.manual_seed(0)
    return _Model(kind(**options)).double()


def _rows(model):
    graph_module = torch.fx.symbolic_trace(model)
    group = find_units(graph_module)["layer"]
    values = {site_input(site.calls[0]): X for site in group.sites}
    values |= {node: getattr(graph_module.layer, str(node.target).split(".")[-1]) for node in group.boundary}
    return group, rows_of_units(group, graph_module, values)


def test_the_heads_of_one_fused_map_own_rows_of_q_k_and_v():
    group, rows = _rows(_model(_Fused))
    assert group.kind == "head"
    assert [row.tolist() for row in rows] == [[[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]]


def test_the_heads_of_three_maps_own_rows_of_each():
    group, rows = _rows(_model(_Explicit))
    assert [site.path for site in group.sites] == ["layer.q", "layer.k", "layer.v"]
    assert [row.tolist() for row in rows] == [[[0, 1], [2, 3]]] * 3


@pytest.mark.parametrize(
    ("kind", "expected"), [(_SwiGLU, [[[i] for i in range(5)]] * 2), (_GEGLU, [[[i, i + 5] for i in range(5)]])]
)
def test_a_gated_neuron_owns_a_row_of_both_maps(kind, expected):
    group, rows = _rows(_model(kind))
    assert group.kind == "gated"
    assert [row.tolist() for row in rows] == expected


def _blocks(model, output_of, sites, rows, loss_behind):
    """The surrogate's Hessian blocks, explicitly."""
    layer = model.layer
    out = output_of(X).detach().requires_grad_()
    (delta,) = torch.autograd.grad(loss_behind(out), out)

    def surrogate(*weights):
        named = {f"{site}.weight": weight for site, weight in zip(sites, weights, strict=True)}
        with torch.nn.utils.stateless._reparametrize_module(layer, named):
            return (delta * output_of(X)).sum()

    weights = [layer.get_submodule(site).weight.detach() for site in sites]
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        hessian = torch.func.hessian(surrogate, tuple(range(len(sites))))(*weights)
    columns = weights[0].shape[1]
    full = torch.cat(
        [torch.cat([b.reshape(w.numel(), -1) for b in row], 1) for row, w in zip(hessian, weights, strict=True)]
    )
    offsets = [0, *torch.tensor([w.numel() for w in weights]).cumsum(0).tolist()]
    index = torch.cat(
        [o + (r[:, :, None] * columns + torch.arange(columns)).flatten(1) for o, r in zip(offsets, rows, strict=False)],
        1,
    )
    return torch.stack([full[i][:, i] for i in index]).detach(), full.detach(), index


CASES = {
    "fused": (_Fused, "heads", ["qkv"]),
    "explicit": (_Explicit, "heads", ["q", "k", "v"]),
    "SwiGLU": (_SwiGLU, "units", ["gate", "up"]),
    "GEGLU": (_GEGLU, "units", ["both"]),
}


def _explicit(name):
    kind, method, sites = CASES[name]
    model = _model(kind)
    behind = model.layer.merge if method == "heads" else model.layer.down
    _, rows = _rows(model)

    def loss_behind(out):
        return F.cross_entropy(model.head(behind(out).mean(1)), TARGET)

    return model, *_blocks(model, getattr(model.layer, method), sites, rows, loss_behind)


@pytest.mark.parametrize("name", CASES)
def test_scores_are_the_least_eigenvalues_of_the_surrogates_blocks(name):
    model, blocks, _, _ = _explicit(name)
    scores = analyze_units(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES, iterations=64)["layer"]
    expected = torch.linalg.eigvalsh(blocks)[:, 0]
    assert float((scores.values - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    quotients = torch.einsum("ud,ude,ue->u", scores.eigenvectors, blocks, scores.eigenvectors)
    torch.testing.assert_close(quotients, scores.values, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_blocks_between_two_units_are_exactly_zero(name):
    _, _, full, index = _explicit(name)
    for first in range(len(index)):
        for second in range(first):
            assert float(full[index[first]][:, index[second]].abs().max()) == 0


def test_a_real_split_of_a_head_changes_the_loss_as_predicted():
    model = _model(_Fused)
    scores = analyze_units(torch.fx.symbolic_trace(model), F.cross_entropy, BATCHES, iterations=64)["layer"]
    _, (rows,) = _rows(model)

    def heads(head, shift):
        weight = model.layer.qkv.weight.detach().clone()
        weight[rows[head]] += shift * scores.eigenvectors[head].reshape(-1, 4)
        with torch.nn.utils.stateless._reparametrize_module(model.layer, {"qkv.weight": weight}):
            return model.layer.heads(X)

    def curvature(head, epsilon):
        """Twice the change of the loss by halves epsilon apart from the head, over epsilon squared."""
        merged = (heads(head, epsilon) + heads(head, -epsilon)) / 2
        after = F.cross_entropy(model.head(model.layer.merge(merged).mean(1)), TARGET)
        return 2 * (after - F.cross_entropy(model(X), TARGET)) / epsilon**2

    with torch.no_grad():
        for head in range(2):
            # it is even in epsilon: two steps of Richardson's leave an error of epsilon^4, and rounding over epsilon^2
            found = (4 * curvature(head, 1e-2) - curvature(head, 2e-2)) / 3
            assert float((found - scores.values[head]).abs()) < 1e-5 * float(scores.values.abs().max())


def test_an_activation_written_as_a_product_is_no_gate():
    class QuickGELU(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            z = self.fc(x)
            return z * torch.sigmoid(1.702 * z)

    with pytest.raises(AnalysisError, match="none in this model"):
        analyze_units(torch.fx.symbolic_trace(_model(QuickGELU)), F.cross_entropy, BATCHES)


def test_heads_that_share_keys_are_refused():
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.kv, self.proj = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            q = self.q(x).unflatten(-1, (2, 2)).transpose(1, 2)
            k, v = self.kv(x).unflatten(-1, (2, 1, 2)).permute(2, 0, 3, 1, 4).unbind(0)
            heads = F.scaled_dot_product_attention(q, k.expand(-1, 2, -1, -1), v.expand(-1, 2, -1, -1))
            return self.proj(heads.transpose(1, 2).flatten(2))

    scores = analyze_units(torch.fx.symbolic_trace(_model(Grouped)), F.cross_entropy, BATCHES)
    assert "rows of layer.kv do not divide into 2 units" in scores.refusals["layer"]


def test_active_dropout_is_refused_with_the_way_out():
    scores = analyze_units(torch.fx.symbolic_trace(_model(_Fused, dropout=0.5)), F.cross_entropy, BATCHES)
    assert ".eval()" in scores.refusals["layer"]


def test_a_timm_transformer_has_units_in_every_block():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2, num_classes=3, mlp_ratio=2
    )
    batches = [(Draws(seed, torch.float32).normal(4, 3, 8, 8), TARGET[:4]) for seed in range(2)]
    scores = analyze_units(torch.fx.symbolic_trace(model), F.cross_entropy, batches, iterations=4)
    assert list(scores) == ["blocks.0.attn", "blocks.1.attn"]
    assert scores["blocks.0.attn"].values.shape == (2,)

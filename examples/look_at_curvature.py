"""Look at the curvature of a model, check it against the definition, grow by an operator of your own, and plot it.

Run: python examples/look_at_curvature.py    (a few seconds; writes curvature.png)
"""

import networkx as nx
import torch
from torch import nn

import fxgrow
from fxgrow.operators import Attachment, PseudoLayer, register_operator


def main() -> None:
    """Score a small regression, print what was found, and grow it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4)).double()
    x = torch.randn(512, 8, dtype=torch.float64)
    batches = list(zip(x.split(64), torch.sin(3 * x[:, :4]).split(64), strict=True))

    traced = fxgrow.trace(model, batches[0][0])
    scores = fxgrow.analyze(traced, nn.functional.mse_loss, batches, iterations=16)
    print("site  matrix     least      held out         significant")
    for path, site in scores.items():
        least = int(site.eigenvalues.argmin())
        held_out = f"{site.held_out[least]:+.4f} +- {site.stderr[least]:.4f}"
        significant = f"{int(site.significant.sum())} of {len(site.eigenvalues)}"
        print(f"{path:5} {site.matrix:10} {site.eigenvalues[least]:+.4f}    {held_out}   {significant}")

    compare_with_definition(model, batches, scores)

    grown = fxgrow.grow(traced, scores, budget=0.2, operator="tanh")
    fxgrow.verify(traced, grown, batches[0][0])
    fxgrow.analyze(grown, nn.functional.mse_loss, batches, iterations=16)
    fxgrow.plot.scores(grown).figure.savefig("curvature.png")  # before growth, and now
    network = fxgrow.to_networkx(grown)
    print(f"grown: {network.number_of_nodes()} nodes, longest path {nx.dag_longest_path_length(network)}")
    for path, depths in fxgrow.depth_map(grown).items():
        if any(depths):
            print(f"{path}: {sum(depth > 0 for depth in depths)} of {len(depths)} neurons are one pseudo-layer deeper")


def compare_with_definition(model, batches, scores) -> None:
    """Build the splitting matrix of every neuron of the last hidden layer explicitly, and diagonalise it."""
    x, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    hidden = model[:2](x)
    z = model[2](hidden).detach().requires_grad_()
    a = nn.functional.gelu(z)
    (delta,) = torch.autograd.grad(nn.functional.mse_loss(model[4](a), target), a)
    bend = torch.vmap(torch.vmap(torch.func.grad(torch.func.grad(nn.functional.gelu))))(z.detach())
    matrices = torch.einsum("ti,td,te->ide", delta * bend, hidden, hidden)
    error = (torch.linalg.eigvalsh(matrices)[:, 0] - scores["2"].eigenvalues).abs().max()
    print(f"largest difference to the explicit matrices: {error:.1e}")


@register_operator
class Tanh(PseudoLayer):
    """An operator of your own: ``W2 tanh(W1 h)`` behind the site, with ``W2 = 0``."""

    name = "tanh"
    reads = "output"

    def __init__(self, attachment: Attachment) -> None:
        super().__init__(attachment)
        neurons, rows, dtype = attachment.map.neurons, len(attachment.rows), attachment.weight.dtype
        self.fc1 = nn.utils.skip_init(nn.Linear, neurons, rows, bias=False, dtype=dtype)
        self.act = nn.Tanh()
        self.fc2 = nn.utils.skip_init(nn.Linear, rows, rows, bias=False, dtype=dtype)
        nn.init.normal_(self.fc1.weight, std=neurons**-0.5, generator=attachment.generator)
        nn.init.zeros_(self.fc2.weight)

    @staticmethod
    def parameter_count(site, rows: int) -> int:
        """One hidden row for each grown row, and a square matrix."""
        return rows * site.neurons + rows * rows

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return W2 tanh(W1 h)."""
        return self.fc2(self.act(self.fc1(h)))


if __name__ == "__main__":
    main()

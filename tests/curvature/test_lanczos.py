import pytest
import torch

from fxgrow.curvature.lanczos import lanczos, start_vectors
from fxgrow.curvature.statistics import spearman
from fxgrow.testing import Draws


def _symmetric(problems, size, rank=None, seed=0):
    draws = Draws(seed)
    factor, signs = draws.normal(problems, size, rank or size), draws.normal(rank or size)
    return torch.einsum("pir,r,pjr->pij", factor, signs, factor)


def _run(matrices, iterations):
    def operator(vectors):
        return torch.einsum("pij,pj->pi", matrices, vectors)

    start = start_vectors(matrices.shape[0], matrices.shape[1], 0, matrices)
    return lanczos(operator, start, iterations)


@pytest.mark.parametrize(("wanted", "index"), [("least", 0), ("greatest", -1)])
def test_as_many_iterations_as_rows_are_exact(wanted, index):
    matrices = _symmetric(5, 9)
    pairs = _run(matrices, 9).pairs(wanted)
    exact = torch.linalg.eigvalsh(matrices)[:, index]
    torch.testing.assert_close(pairs.values, exact, rtol=1e-12, atol=1e-12)


def test_vectors_are_those_of_eigh_up_to_sign():
    matrices = _symmetric(4, 7)
    pairs = _run(matrices, 7).pairs()
    exact = torch.linalg.eigh(matrices).eigenvectors[:, :, 0]
    overlap = (pairs.vectors * exact).sum(1).abs()
    torch.testing.assert_close(overlap, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-10)


def test_the_largest_in_absolute_value_is_found_at_either_end():
    matrices = torch.diag_embed(torch.tensor([[-5.0, 1, 2], [-1, 1, 3]], dtype=torch.float64))
    assert _run(matrices, 3).pairs("largest").values.tolist() == pytest.approx([-5, 3])


def test_more_iterations_than_rows_change_nothing():
    matrices = _symmetric(3, 4)
    torch.testing.assert_close(_run(matrices, 50).pairs().values, _run(matrices, 4).pairs().values)


def test_a_zero_matrix_gives_zero_and_a_unit_vector():
    pairs = _run(torch.zeros(2, 6, 6, dtype=torch.float64), 6).pairs()
    assert pairs.values.tolist() == [0, 0]
    assert torch.linalg.vector_norm(pairs.vectors, dim=1).tolist() == pytest.approx([1, 1])
    assert pairs.residuals.tolist() == [0, 0]


@pytest.mark.parametrize("rank", [1, 3])
def test_an_exhausted_krylov_space_goes_on_without_harm(rank):
    matrices = _symmetric(4, 12, rank)
    pairs = _run(matrices, 8).pairs()
    exact = torch.linalg.eigvalsh(matrices)[:, 0]
    torch.testing.assert_close(pairs.values, exact, rtol=1e-10, atol=1e-10)


def test_a_multiple_of_the_identity_is_one_step_and_stays_exact():
    matrices = 3 * torch.eye(8, dtype=torch.float64).expand(2, 8, 8)
    assert _run(matrices, 8).pairs("least").values.tolist() == pytest.approx([3, 3])


def test_the_residual_bounds_the_distance_to_an_eigenvalue():
    matrices = _symmetric(6, 40)
    pairs = _run(matrices, 6).pairs()
    distance = (torch.linalg.eigvalsh(matrices) - pairs.values[:, None]).abs().min(1).values
    assert bool((distance <= pairs.residuals + 1e-12).all())


def test_float32_reaches_its_own_precision():
    matrices = _symmetric(8, 20)
    pairs = _run(matrices.float(), 20).pairs()
    exact = torch.linalg.eigvalsh(matrices)
    error = (pairs.values - exact[:, 0]).abs() / exact.abs().amax(1)
    assert float(error.max()) < 1e-6


def test_float32_keeps_its_basis_orthogonal_where_one_direction_outweighs_all_others():
    x, rest = Draws(0).normal(5, 1, 64), Draws(1).normal(5, 64, 64)
    matrices = 1e-5 / 16 * (rest + rest.transpose(1, 2)) - x.transpose(1, 2) @ x / 64
    found = _run(matrices.float(), 40)
    torch.testing.assert_close(found.basis @ found.basis.transpose(1, 2), torch.eye(40).expand(5, 40, 40))
    torch.testing.assert_close(found.pairs().values, torch.linalg.eigvalsh(matrices)[:, 0], rtol=1e-5, atol=0)


def test_it_stops_when_the_order_of_the_problems_has_settled():
    matrices = _symmetric(30, 60) * torch.logspace(0, 2, 30).double()[:, None, None]

    def operator(vectors):
        return torch.einsum("pij,pj->pi", matrices, vectors)

    start = start_vectors(30, 60, 0, matrices)
    found = lanczos(operator, start, 40, settled=0.99)
    used = found.diagonal.shape[1]
    assert 4 < used < 40
    assert found.basis.shape[1] == used
    # from the least to the largest matrix eigenvalues grow a hundredfold: two iterations fix all but close neighbours
    assert spearman(found.pairs().values, torch.linalg.eigvalsh(matrices)[:, 0]) > 0.98


@pytest.mark.parametrize("wanted", ["least", "greatest", "largest"])
def test_a_last_half_iteration_gives_the_values_and_vectors_of_a_whole_one(wanted):
    matrices = _symmetric(30, 60) * torch.logspace(0, 2, 30).double()[:, None, None]
    products = []

    def operator(vectors):
        products.append(vectors)
        return torch.einsum("pij,pj->pi", matrices, vectors)

    def quotient(vectors):
        return torch.einsum("pi,pij,pj->p", vectors, matrices, vectors)

    start = start_vectors(30, 60, 0, matrices)
    half = lanczos(operator, start, 40, settled=0.9, quotient=quotient)
    made = half.diagonal.shape[1]
    assert (len(products), half.basis.shape[1]) == (made - 1, made)
    found, whole = half.pairs(wanted), lanczos(operator, start, made).pairs(wanted)
    torch.testing.assert_close(found.values, whole.values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.vectors, whole.vectors, rtol=1e-10, atol=1e-10)
    distance = (torch.linalg.eigvalsh(matrices) - found.values[:, None]).abs().min(1).values
    assert bool((distance <= found.residuals + 1e-12).all())


def test_an_order_that_is_known_is_what_the_first_iteration_is_compared_with():
    matrices = torch.diag_embed(torch.linspace(-1, 1, 40).double() + torch.arange(30).double()[:, None])
    start = start_vectors(30, 40, 0, matrices)

    def iterations(known):
        operator = torch.func.vmap(torch.mv)
        found = lanczos(lambda v: operator(matrices, v), start, 20, settled=0.99, apart=1, known=known)
        return found.diagonal.shape[1]

    assert iterations(torch.arange(30)) == 1
    assert iterations(-torch.arange(30)) == iterations(None) == 2


def test_problems_do_not_depend_on_each_other():
    matrices = _symmetric(5, 10)
    order = torch.tensor([3, 1, 4, 0, 2])
    together, permuted = _run(matrices, 4).pairs().values, _run(matrices[order], 4).pairs().values
    torch.testing.assert_close(permuted, together[order])

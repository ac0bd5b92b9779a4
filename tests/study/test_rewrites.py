"""What rewrites do to the function: half-steps as their formula says, the others nothing."""

import pytest
import torch
from small import BLOCKS, CONVOLUTION, IMAGES, MLP, TEXT, source, task
from study import newton
from study.arms import depth
from study.fitting import FittedHalfSteps
from study.groups import GROUPS
from study.networks import Architecture, Block, Network, Shape
from study.newton import NewtonStep
from study.pseudo import AlongEigenvectors, PseudoLayers
from study.rewrites import AtOwnRate, Copies, FreshBlocks, HalfSteps, Restart, Rewrite, Site, Stack, Widen
from study.state import Leaf, State, initial
from study.tasks import batch
from study.units import HalfShare, HalfUnits, NewUnits, SilentUnits, directions, scored
from torch.func import functional_call

SEEDS = (0, 1)
ARCHITECTURES = [MLP, TEXT, IMAGES, CONVOLUTION]


def _site(architecture: Architecture) -> Site:
    def probe() -> tuple[torch.Tensor, torch.Tensor]:
        return batch(source(architecture), task(architecture, batch=64), SEEDS, -1, 1.0)

    return Site(architecture, SEEDS, 5, probe)


def _trained(architecture: Architecture, blocks: int = 2) -> State:
    """Return networks whose moments and steps are not zero."""
    state = initial(architecture, depth(BLOCKS[architecture], blocks), SEEDS)
    leaves = {n: Leaf(leaf.value, leaf.value * 0.1, leaf.value**2, 7) for n, leaf in state.leaves().items()}
    return state.with_leaves(leaves)


def _outputs(architecture: Architecture, state: State) -> torch.Tensor:
    x = source(architecture).test_x
    network = Network(architecture, state.shapes)
    values = [{name: value[index] for name, value in state.values().items()} for index in range(len(SEEDS))]
    return torch.stack([functional_call(network, each, (x,)) for each in values])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_steps_are_two_steps_of_half_the_branch(architecture: Architecture) -> None:
    state = _trained(architecture, 1)
    grown = HalfSteps()(state, _site(architecture))
    x = torch.linspace(-1, 1, 5 * architecture.tokens * architecture.width).view(5, architecture.tokens, -1).sin()
    block = Block(architecture, state.shapes[0])
    block.load_state_dict({name: leaf.value[0] for name, leaf in state.blocks[0].items()})
    expected = x
    for _ in range(2):
        for branch in block.children():
            expected = expected + branch(expected) / 2
    found = x
    for leaves in grown.blocks:
        found = functional_call(block, {name: leaf.value[0] for name, leaf in leaves.items()}, (found,))
    torch.testing.assert_close(found, expected)


def test_half_steps_of_one_block_leave_the_others() -> None:
    state = _trained(MLP)
    grown = HalfSteps(blocks=(1,))(state, _site(MLP))
    assert len(grown.blocks) == 3
    assert grown.blocks[0] is state.blocks[0]


def test_blocks_begin_anew_at_a_rate_of_their_own_and_nothing_else_changes() -> None:
    state = _trained(MLP)
    changed = AtOwnRate(Restart(), 4.0)(state, _site(MLP))
    torch.testing.assert_close(_outputs(MLP, changed), _outputs(MLP, state))
    for name, leaf in changed.leaves().items():
        assert (leaf.factor, leaf.steps) == ((4.0, 0) if name.startswith("blocks.") else (1.0, 7)), name
        assert bool(leaf.mean.any()) != name.startswith("blocks.") or not leaf.value.any(), name


def test_a_stack_is_the_same_blocks_twice_in_their_order() -> None:
    state = _trained(MLP)
    grown = Stack()(state, _site(MLP))
    assert [block["mlp.fc1.weight"].value.sum() for block in grown.blocks] == [
        block["mlp.fc1.weight"].value.sum() for block in state.blocks * 2
    ]
    assert not any(leaf.steps for block in grown.blocks for leaf in block.values())
    addresses = {leaf.value.data_ptr() for block in grown.blocks for leaf in block.values()}
    assert len(addresses) == sum(map(len, grown.blocks))


KEEP = [
    *(Copies(), Copies(moments="fresh"), FreshBlocks(), Widen(4), Widen(4, "pairs"), SilentUnits(3), NewUnits(3)),
    *(PseudoLayers(kind, 3) for kind in ("serial", "branch", "gated")),
    AlongEigenvectors("gated", 3),
]


@pytest.mark.parametrize("rewrite", KEEP, ids=repr)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rewrites_that_keep_the_function_keep_it(architecture: Architecture, rewrite: Rewrite) -> None:
    state = _trained(architecture)
    grown = rewrite(state, _site(architecture))
    assert grown.parameters() > state.parameters()
    torch.testing.assert_close(_outputs(architecture, grown), _outputs(architecture, state), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("moments", ["fresh", "copied", "scaled"])
def test_moments_of_both_halves_are_as_said(moments: str) -> None:
    old = _trained(MLP, 1).blocks[0]
    for half in HalfSteps(moments=moments)(_trained(MLP, 1), _site(MLP)).blocks:
        inner, last = half["mlp.fc1.weight"], half["mlp.out.weight"]
        scales = {"fresh": (0.0, 0.0), "copied": (1.0, 1.0), "scaled": (0.5, 1.0)}[moments]
        for leaf, name, scale in ((inner, "mlp.fc1.weight", scales[0]), (last, "mlp.out.weight", scales[1])):
            torch.testing.assert_close(leaf.mean, old[name].mean * scale)
            torch.testing.assert_close(leaf.square, old[name].square * scale**2)
            assert leaf.steps == (0 if moments == "fresh" else 7)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_two_halves_share_no_memory(architecture: Architecture) -> None:
    first, second = HalfSteps(moments="copied")(_trained(architecture, 1), _site(architecture)).blocks
    addresses = [t.data_ptr() for half in (first, second) for leaf in half.values() for t in (leaf.value,)]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fitted_half_steps_are_nearer_to_the_old_function(architecture: Architecture) -> None:
    state, site = _trained(architecture), _site(architecture)
    before = _outputs(architecture, state)
    plain, fitted = (
        (_outputs(architecture, rewrite(state, site)) - before).norm().item()
        for rewrite in (HalfSteps(), FittedHalfSteps())
    )
    assert fitted < 0.95 * plain


@pytest.mark.parametrize("by", ["size", "smallest", "random", "eigen"])
def test_half_steps_of_all_units_are_those_of_the_block(by: str) -> None:
    state = _trained(MLP, 1)
    zeroed = dict(state.blocks[0]) | {"mlp.out.bias": Leaf.fresh(state.blocks[0]["mlp.out.bias"].value * 0)}
    state = State(state.shapes, state.outer, (zeroed,))
    some = HalfUnits(12, by)(state, _site(MLP))
    torch.testing.assert_close(_outputs(MLP, some), _outputs(MLP, HalfSteps()(state, _site(MLP))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", [TEXT, IMAGES])
def test_half_steps_of_all_heads_and_units_are_those_of_the_block(architecture: Architecture) -> None:
    state = _trained(architecture, 1)
    last = [f"{branch}.out.bias" for branch in ("attention", "mlp")]
    zeroed = dict(state.blocks[0]) | {name: Leaf.fresh(state.blocks[0][name].value * 0) for name in last}
    state = State(state.shapes, state.outer, (zeroed,))
    whole = HalfSteps()(state, _site(architecture))
    some = HalfShare(12, heads=2)(state, _site(architecture))
    assert some.shapes == whole.shapes
    torch.testing.assert_close(_outputs(architecture, some), _outputs(architecture, whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("share", "left"), [(HalfShare(0, heads=2), "mlp"), (HalfShare(12), "attention")])
def test_half_steps_of_one_kind_of_branch_leave_the_other(share: HalfShare, left: str) -> None:
    state = _trained(IMAGES, 1)
    front, thin = share(state, _site(IMAGES)).blocks
    kinds = {name.split(".")[0] for name in thin}
    assert kinds == {"attention", "mlp"} - {left}
    for name, leaf in front.items():
        factor = 0.5 if name.endswith("out.weight") and not name.startswith(left) else 1.0
        assert torch.equal(leaf.value, state.blocks[0][name].value * factor)
    for name, leaf in thin.items():
        if name.endswith("out.weight"):  # the halves make up the whole
            torch.testing.assert_close(leaf.value.sum(2), front[name].value.sum(2))


def test_kinds_of_branches_have_equal_parameters() -> None:
    group = next(group for group in GROUPS if group.places == "kinds")
    (event,) = group.baseline.events
    state = initial(group.task.architecture, group.baseline.start, SEEDS)
    counts = [
        arm.events[0].rewrite(state, _site(group.task.architecture)).parameters()
        for arm in (group.baseline, *group.arms)
    ]
    assert max(counts) / min(counts) < 1.01
    assert {arm.events[0].at for arm in group.arms} == {event.at}


def test_a_thin_block_has_the_heads_that_were_halved() -> None:
    state, site = _trained(TEXT, 1), _site(TEXT)
    front, thin = HalfShare(3, heads=1)(state, site).blocks
    old, new = (block[0]["attention.out.weight"].value for block in (state.blocks, (front,)))
    for index in range(len(SEEDS)):
        (head,) = (
            h for h in range(2) if torch.equal(new[index][:, 4 * h : 4 * h + 4], old[index][:, 4 * h : 4 * h + 4] / 2)
        )
        values = state.blocks[0]["attention.qkv.weight"].value[index].view(3, 2, 4, -1)[2, head]
        assert torch.equal(thin["attention.qkv.weight"].value[index][8:], values)
        assert torch.equal(thin["attention.out.weight"].value[index], old[index][:, 4 * head : 4 * head + 4] / 2)


def test_the_largest_units_are_chosen_for_each_network_by_itself() -> None:
    state = _trained(MLP, 1)
    weight = state.blocks[0]["mlp.fc1.weight"].value
    weight[0, 3] *= 100
    weight[1, 8] *= 100
    grown = HalfUnits(1)(state, _site(MLP))
    assert grown.shapes == (BLOCKS[MLP], Shape(hidden=1))
    thin = grown.blocks[1]["mlp.fc1.weight"].value
    assert torch.equal(thin[:, 0], torch.stack([weight[0, 3], weight[1, 8]]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shallow_and_deep_networks_begin_alike(architecture: Architecture) -> None:
    shallow, deep = (initial(architecture, depth(BLOCKS[architecture], blocks), SEEDS) for blocks in (1, 3))
    for name, value in shallow.values().items():
        assert torch.equal(value, deep.values()[name])
    assert not torch.equal(deep.blocks[0]["mlp.fc1.weight"].value, deep.blocks[1]["mlp.fc1.weight"].value)


def test_a_score_chooses_the_units_that_it_ranks_first() -> None:
    state, site = _trained(MLP, 2), _site(MLP)
    with torch.no_grad():  # as in a run
        grown = HalfUnits(2, "gradient")(state, site)
        (_, score) = scored(state, site, "gradient")
    assert score.shape == (len(SEEDS), 12)
    for index, best in enumerate(score.topk(2).indices):
        rows = state.blocks[1]["mlp.fc1.weight"].value[index, best]
        assert torch.equal(grown.blocks[3]["mlp.fc1.weight"].value[index], rows)


@pytest.mark.parametrize("rewrite", [PseudoLayers("serial", 3), PseudoLayers("gated", 3), SilentUnits(3)], ids=repr)
@pytest.mark.parametrize("architecture", [MLP, TEXT])
def test_a_newton_step_lowers_the_loss_and_moves_only_what_was_silent(
    architecture: Architecture, rewrite: Rewrite
) -> None:
    state, site = _trained(architecture), _site(architecture)
    zero, stepped = rewrite(state, site), NewtonStep(rewrite)(state, site)
    moved = {n for n, leaf in stepped.leaves().items() if not torch.equal(leaf.value, zero.leaves()[n].value)}
    assert moved == {n for n, leaf in zero.leaves().items() if not leaf.value.any() and not n.endswith("bias")}
    x, y = (part.chunk(2, dim=1)[1] for part in site.probe())
    for index in range(len(SEEDS)):
        losses = [_loss_on(architecture, each, index, x[index], y[index]) for each in (zero, stepped)]
        assert losses[1] < losses[0]


def test_a_newton_step_solves_the_damped_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newton, "_DAMPINGS", (0.5,))
    monkeypatch.setattr(newton, "_ITERATIONS", 200)
    state, site, rewrite = _trained(MLP, 1), _site(MLP), PseudoLayers("gated", 2)
    stepped, zero = NewtonStep(rewrite)(state, site), rewrite(state, site)
    names = [name for name in zero.values() if name.endswith("gate")]
    network, x, y = Network(MLP, zero.shapes), *(part[0].chunk(2)[0] for part in site.probe())
    values = {name: value[0] for name, value in zero.values().items()}

    def logits(*gates: torch.Tensor) -> torch.Tensor:
        return functional_call(network, {**values, **dict(zip(names, gates, strict=True))}, (x,))

    gates = tuple(values[name] for name in names)
    jacobian = torch.cat(torch.autograd.functional.jacobian(logits, gates), dim=-1)
    p = logits(*gates).softmax(-1).detach()
    hessian = (torch.diag_embed(p) - p[:, :, None] * p[:, None]) / len(p)
    matrix = torch.einsum("nci,ncd,ndj->ij", jacobian, hessian, jacobian)
    gradient = torch.einsum("nci,nc->i", jacobian, (p - torch.nn.functional.one_hot(y, 3)) / len(p))
    unit = gradient / gradient.norm()
    expected = torch.linalg.solve(matrix + 0.5 * (unit @ matrix @ unit) * torch.eye(len(unit)), -gradient)
    found = torch.cat([stepped.values()[name][0] for name in names])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def _loss_on(architecture: Architecture, state: State, index: int, x: torch.Tensor, y: torch.Tensor) -> float:
    values = {name: value[index] for name, value in state.values().items()}
    logits = functional_call(Network(architecture, state.shapes), values, (x,))
    return torch.nn.functional.cross_entropy(logits.flatten(0, -2), y.flatten()).item()


def test_directions_of_gated_pseudo_layers_are_the_eigenvectors() -> None:
    state, site = _trained(MLP, 1), _site(MLP)
    grown = AlongEigenvectors("gated", 3)(state, site)
    plain = PseudoLayers("gated", 3)(state, site)
    for at, name in (("at_fc1", "mlp.fc1"), ("at_out", "mlp.out")):
        (vectors,) = directions(state, site, "eigen", (name,))
        found, drawn = (each.values()[f"blocks.0.mlp.{at}.branch.weight"] for each in (grown, plain))
        cosines = torch.cosine_similarity(found, vectors[:, :3].float(), dim=2)
        torch.testing.assert_close(cosines, torch.ones_like(cosines))
        torch.testing.assert_close(found.norm(dim=2), drawn.norm(dim=2))

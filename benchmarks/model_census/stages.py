"""The way that each model goes, stage by stage. A stage that fails raises; the next ones are then not tried."""

import copy
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

import fxgrow
from fxgrow.execution.structures import flatten
from fxgrow.graph.sites import find_sites
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.record import record_of
from fxgrow.testing import check_operations
from model_census.building import SEED, Built, build, loss_of, targets, versions
from model_census.candidates import Candidate
from model_census.doors import EXPORT, growable_share, through_export, traced_through
from model_census.moving import Movement

BUDGET = 0.05  #: of each of the two growth events
LANCZOS_ITERATIONS = 4
STEPS = 12  #: optimizer steps at most, until every new tensor has moved
ROW_STEPS = 10  #: optimizer steps at most, until every new row has moved


class CensusError(Exception):
    """A model went through a stage and did not do there what it should."""


@dataclass
class Subject:
    """One model on its way, with what is known of it so far."""

    candidate: Candidate
    folder: Path
    backend: str
    facts: dict[str, Any] = field(default_factory=dict)
    built: Built | None = None
    traced: fx.GraphModule | None = None
    scores: fxgrow.Scores | None = None
    grown: fx.GraphModule | None = None
    movement: Movement | None = None


def build_model(subject: Subject) -> None:
    """Build the model and its inputs."""
    subject.built = build(subject.candidate)
    subject.facts.update(versions=versions(subject.candidate), backend=subject.backend)
    subject.facts["parameters"] = sum(parameter.numel() for parameter in subject.built.model.parameters())


def trace_model(subject: Subject) -> None:
    """Trace without the gate, by the door that leaves most of the model open to growth."""
    built = built_of(subject)
    subject.traced, door = traced_through(built)
    sites = find_sites(subject.traced)
    record = record_of(subject.traced)
    subject.facts.update(
        door=door,
        nodes=len(subject.traced.graph.nodes),
        growable_share=growable_share(subject.traced, built.model),
        refused={site.path: site.refusal for site in sites.values() if site.refusal is not None},
        whole=list(record.trace_policy.get("leaves", [])),
        notes=list(record.trace_notes),
    )


def gate(subject: Subject) -> None:
    """Compare what was traced with the model: outputs, gradients and buffers, in both modes, at two batch sizes."""
    _verify(subject, traced_of(subject))


def check_records(subject: Subject) -> None:
    """Hold the records of the graph's operations against what happens to memory and state when they run."""
    traced, given = traced_of(subject), built_of(subject).inputs
    named = isinstance(given, Mapping)
    names = [str(node.target) for node in traced.graph.find_nodes(op="placeholder")]
    subject.facts["operations"] = check_operations(traced, [given[name] for name in names] if named else [given])


def score(subject: Subject) -> None:
    """Score every site by the least eigenvalue of its curvature."""
    subject.scores = _scores(subject, traced_of(subject), "eigen")
    subject.facts["scored_sites"] = len(subject.scores.sites)


def grow_serial(subject: Subject) -> None:
    """Grow by the operator that adds depth, where the scores say."""
    assert subject.scores is not None
    subject.grown = fxgrow.grow(traced_of(subject), subject.scores, budget=BUDGET, operator="serial")
    subject.scores = None  # their eigenvectors take nearly as much memory as the model


def grow_branch(subject: Subject) -> None:
    """Score what has grown, its pseudo-layers included, and grow once more, by an operator that adds width.

    The score of this second event is a cheap one: the eigenvalues were measured before.
    """
    scores = _scores(subject, _grown(subject), "gradient")
    subject.grown = fxgrow.grow(_grown(subject), scores, budget=BUDGET, operator="branch")
    subject.facts["grown_parameters"] = parameter_count(subject.grown)


def check_equal(subject: Subject) -> None:
    """Compare what has grown twice with the model."""
    _verify(subject, _grown(subject))


def train(subject: Subject) -> None:
    """Take two optimizer steps, after which every parameter that growth added must have moved.

    Where some have not, take more of them, each with other random numbers: stochastic depth may drop a block for all
    of a small batch.
    """
    grown = _grown(subject).train()
    original = dict(built_of(subject).model.named_parameters())
    new = [name for name, _ in grown.named_parameters() if name not in original]
    movement = Movement(grown, new, lambda step: _loss(subject, grown, seed=SEED + step))
    staying = movement.go_on(STEPS, movement.tensors_that_stay)
    subject.movement, subject.facts["steps"] = movement, movement.steps
    if staying:
        raise CensusError(f"{len(staying)} of {len(new)} new parameters have not moved, {staying[0]} among them")


def train_rows(subject: Subject) -> None:
    """Go on until ten steps, within which every row of those parameters must have moved."""
    movement = subject.movement
    assert movement is not None
    staying = movement.go_on(ROW_STEPS, movement.rows_that_stay)
    subject.facts.update(rows=movement.rows, row_steps=movement.steps)
    subject.movement = None
    if staying:
        raise CensusError(f"{len(staying)} of {movement.rows} new rows have not moved, {staying[0]} among them")


def compile_whole(subject: Subject) -> None:
    """Compile the grown model as one graph, forward and backward, and compare its loss with the eager one.

    Compiled code may lay out a value in memory otherwise than eager code does, and then a dropout that reads it draws
    another mask. So if the losses differ and depend on the seed, those in eval mode are compared too.
    """
    grown = _grown(subject).train()
    state = copy.deepcopy(dict(grown.named_buffers()))
    with torch.no_grad():
        expected, reseeded = float(_loss(subject, grown)), float(_loss(subject, grown, seed=SEED + 1))
    for name, buffer in grown.named_buffers():
        buffer.copy_(state[name])
    found = _compiled_loss_of_grown(subject)
    subject.facts["compared_in"] = "train"
    if not _close(found, expected) and expected != reseeded:
        grown.eval()
        with torch.no_grad():
            expected = float(_loss(subject, grown))
        found = _compiled_loss_of_grown(subject)
        subject.facts["compared_in"] = "eval"
    if not _close(found, expected):
        raise CensusError(f"the compiled loss is {found:.6g} and the eager one {expected:.6g}")


def _compiled_loss_of_grown(subject: Subject) -> float:
    try:
        return _compiled_loss(subject, _grown(subject))
    except Exception as error:
        try:
            _compiled_loss(subject, built_of(subject).model.train())
        except Exception:
            error.add_note("the model as it came does not compile either")
        raise


def _close(loss: float, expected: float) -> bool:
    return abs(loss - expected) <= 1e-3 * max(1.0, abs(expected))


def save(subject: Subject) -> None:
    """Write the grown model to a file, and its outputs beside it for the process that loads it."""
    grown = _grown(subject).eval()
    fxgrow.save(grown, subject.folder / "model.pt", check=False)  # the next stage reads it in a process of its own
    subject.facts["file_bytes"] = os.path.getsize(subject.folder / "model.pt")
    torch.save(_outputs(subject, grown), subject.folder / "outputs.pt")


def load(subject: Subject) -> None:
    """Rebuild the model from its file, in a process that has never seen it, and compare its outputs bit by bit."""
    base = _base(subject)
    loaded = fxgrow.load(subject.folder / "model.pt", base=base)
    expected = torch.load(subject.folder / "outputs.pt", weights_only=True)
    for name, value in _outputs(subject, loaded).items():
        if not torch.equal(value, expected[name]):
            raise CensusError(
                f"{name} of the loaded model differs by {float((value - expected[name]).abs().max()):.3g}"
            )


#: In one process.
STAGES: dict[str, Callable[[Subject], None]] = {
    "built": build_model,
    "traced": trace_model,
    "gated": gate,
    "records": check_records,
    "scored": score,
    "grown serial": grow_serial,
    "grown branch": grow_branch,
    "equal": check_equal,
    "backward": train,
    "rows": train_rows,
    "compiled": compile_whole,
    "saved": save,
}
#: In another one.
LATER: dict[str, Callable[[Subject], None]] = {"loaded": load}
ALL_STAGES = (*STAGES, *LATER)


def _scores(subject: Subject, graph_module: fx.GraphModule, score: str) -> fxgrow.Scores:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the census counts what works; two images are enough for that
        batches = [(built_of(subject).inputs, targets(subject.candidate))]
        return fxgrow.analyze(graph_module, loss_of, batches, score=score, iterations=LANCZOS_ITERATIONS)


def _verify(subject: Subject, graph_module: fx.GraphModule) -> None:
    built, images = built_of(subject), next(iter(subject.candidate.inputs.values())).shape[0]
    modes = ("eval",) if subject.facts["door"] == EXPORT else ("eval", "train")  # a program keeps its mode
    fxgrow.verify(built.model, graph_module, built.inputs, modes=modes, batch_sizes=(images, images + 1))


def _loss(subject: Subject, module: Callable[..., Any], seed: int = SEED) -> Tensor:
    torch.manual_seed(seed)
    return loss_of(built_of(subject).call(module), targets(subject.candidate))


def _compiled_loss(subject: Subject, module: torch.nn.Module) -> float:
    loss = _loss(subject, torch.compile(module, backend=subject.backend, fullgraph=True))
    loss.backward()
    for parameter in module.parameters():
        parameter.grad = None
    return float(loss.detach())


def _outputs(subject: Subject, module: fx.GraphModule) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(flatten(built_of(subject).call(module)))


def _base(subject: Subject) -> torch.nn.Module | None:
    """Return the base that a file needs from its reader; none if the file knows its origin."""
    built = build(subject.candidate)
    subject.built = built
    if subject.facts["door"] == EXPORT:
        return through_export(built)
    return None if built.origin is not None else built.model


def built_of(subject: Subject) -> Built:
    """Return the model of a subject that was built."""
    assert subject.built is not None
    return subject.built


def traced_of(subject: Subject) -> fx.GraphModule:
    """Return the graph of a subject that was traced."""
    assert subject.traced is not None
    return subject.traced


def _grown(subject: Subject) -> fx.GraphModule:
    assert subject.grown is not None
    return subject.grown

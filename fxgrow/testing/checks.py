"""What every pass promises, as one check that tests call.

A broken promise is a VerificationError that names the pass.
"""

from typing import Any

import torch.fx as fx

from fxgrow.errors import VerificationError
from fxgrow.execution.randomness import random_state
from fxgrow.execution.shapes import propagate_shapes
from fxgrow.graph.sharing import share
from fxgrow.passes.base import Pass, PassResult
from fxgrow.passes.pipeline import Pipeline, parse
from fxgrow.primitives.modules import fetch_attribute
from fxgrow.record.digest import digest
from fxgrow.record.provenance import Provenance, provenance_of
from fxgrow.record.record import record_of
from fxgrow.verification import Verification, verify

#: not 1 first: BatchNorm without pixels cannot train on one sample, and that is no fault of a pass
BATCH_SIZES = (2, 1, 5)


def assert_same_function(before: Any, after: Any, example_inputs: Any = None, **options: Any) -> Verification:
    """Check outputs and gradients in train and eval mode at batch sizes 1, 2 and 5.

    Args:
        before: The reference, a module.
        after: The module that should equal it.
        example_inputs: As for `fxgrow.verify`; random inputs of the traced shapes if left out.
        **options: Further options of `fxgrow.verify`, as in ``tolerance=1e-4``.

    Raises:
        VerificationError: Where they differ.
    """
    return verify(before, after, example_inputs, **{"batch_sizes": BATCH_SIZES, **options})


def check_pass(applied: Pass, graph_module: fx.GraphModule, example_inputs: Any = None) -> PassResult:
    """Run a pass and check all that a pass promises.

    1. The graph that went in, its parameters and the global random state are as they were.
    2. The result shares the parameters that both have, a checkpoint of the graph that went in loads into it, and
       nothing is missing in it but what the created nodes hold; unless it says that it does not keep parameters.
    3. `modified` is true exactly where the structure changed, and then the edit log is the one that `log` returns.
    4. The pass reads back from its text, and replayed from the edit log it makes the same graph.
    5. Shapes on the nodes are those that propagating them anew finds, and created nodes carry their provenance.
    6. Run once more it changes nothing, unless it says that it is not idempotent.
    7. Outputs, and gradients where it keeps parameters, are the same in both modes at several batch sizes, unless it
       says that it does not preserve the function.

    Args:
        applied: The pass.
        graph_module: The graph to try it on, with shapes (`fxgrow.trace`).
        example_inputs: Inputs for 7; random ones if left out.

    Raises:
        VerificationError: Where a promise is broken.
        FxgrowError: If the pass refuses the graph.
    """
    before, state = digest(graph_module), _state(graph_module)
    result = applied(graph_module)
    promises = {
        "it changes the graph that went in": digest(graph_module) == before and _state(graph_module) == state,
        "the shared parameters are copies": not applied.keeps_parameters
        or _shares_parameters(graph_module, result.graph_module),
        "a checkpoint of the graph that went in does not fit": not applied.keeps_parameters
        or _loads_checkpoint(graph_module, result.graph_module),
        "`modified` is not the truth": result.modified == (_listing(graph_module) != _listing(result.graph_module)),
        "the edit log does not have it where it modified": _is_logged(applied, graph_module, result),
        "it does not read back from its text": parse(str(applied)) == Pipeline((applied,)),
        "replayed, it makes another graph": _replays(graph_module, result),
        "it leaves wrong shapes on the nodes": _shapes_are_right(result.graph_module),
        "created nodes lack provenance": _is_signed(applied, graph_module, result.graph_module),
        "it is not idempotent": not applied.idempotent or not applied(result.graph_module).modified,
    }
    for broken, kept in promises.items():
        if not kept:
            raise VerificationError(broken, where=str(applied), fix="mend the pass")
    if applied.preserves_function:
        gradients = applied.keeps_parameters
        assert_same_function(graph_module, result.graph_module, example_inputs, gradients=gradients)
    return result


def _state(graph_module: fx.GraphModule) -> tuple[object, ...]:
    """Return something that differs once a tensor, a mode or the random state changed."""
    tensors = [*graph_module.named_parameters(), *graph_module.named_buffers()]
    versions = [(name, id(tensor), tensor._version) for name, tensor in tensors]
    modes = [(name, module.training) for name, module in graph_module.named_modules()]
    return versions, modes, random_state()


def _shares_parameters(before: fx.GraphModule, after: fx.GraphModule) -> bool:
    known = dict(before.named_parameters(remove_duplicate=False))
    return all(
        known.get(name, parameter) is parameter for name, parameter in after.named_parameters(remove_duplicate=False)
    )


def _loads_checkpoint(before: fx.GraphModule, after: fx.GraphModule) -> bool:
    old, new = set(before.state_dict()), set(after.state_dict())
    created = {node.target for node in _created(before, after) if node.op in ("call_module", "get_attr")}
    return old <= new and all(any(f"{key}.".startswith(f"{path}.") for path in created) for key in new - old)


def _listing(graph_module: fx.GraphModule) -> str:
    """Return the graph and its modules in full, as people read them."""
    used = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    read = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    shapes = [(name, getattr(fetch_attribute(graph_module, name), "shape", None)) for name in sorted(read)]
    return f"{graph_module.graph}\n{[(path, graph_module.get_submodule(path)) for path in sorted(used)]}\n{shapes}"


def _is_logged(applied: Pass, before: fx.GraphModule, result: PassResult) -> bool:
    expected = applied.log(before, result.graph_module) if result.modified else record_of(before).edits
    return record_of(result.graph_module).edits == expected


def _replays(before: fx.GraphModule, result: PassResult) -> bool:
    """Say whether the edits that were added make the graph of the one before; a log may have become shorter instead."""
    old, new = record_of(before), record_of(result.graph_module)
    if not new.edits and old.edits:
        return digest(result.graph_module) == old.base_digest
    replayed = before
    for edit in new.edits[len(old.edits) :]:
        replayed = parse(edit)(replayed).graph_module
    shortened = len(new.edits) < len(old.edits)  # the base, from which to replay it, is not at hand
    return shortened or digest(replayed) == digest(result.graph_module)


def _shapes_are_right(graph_module: fx.GraphModule) -> bool:
    anew = share(graph_module)
    for node in anew.graph.nodes:
        if node.op not in ("placeholder", "output"):
            node.meta.pop("tensor_meta", None)
    propagate_shapes(anew)
    pairs = zip(graph_module.graph.nodes, anew.graph.nodes, strict=True)
    return all(repr(left.meta.get("tensor_meta")) == repr(right.meta.get("tensor_meta")) for left, right in pairs)


def _is_signed(applied: Pass, before: fx.GraphModule, after: fx.GraphModule) -> bool:
    return all((provenance_of(node) or Provenance()).pass_name == applied.name for node in _created(before, after))


def _created(before: fx.GraphModule, after: fx.GraphModule) -> list[fx.Node]:
    known = {node.name for node in before.graph.nodes}
    return [node for node in after.graph.nodes if node.name not in known]

"""Nothing that fxgrow does, or fails to do, leaves a trace on torch or on the rest of the process."""

import subprocess
import sys
import textwrap

import pytest

_PRELUDE = """
import builtins, importlib, math, random, sys, tempfile, types, warnings
from importlib.machinery import SourceFileLoader
import torch, torch.nn.functional as F
from torch import nn
import torch.backends.mha, torch.overrides, torch.utils.checkpoint
import fxgrow
from fxgrow.errors import FxgrowError

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places, self.head = nn.Embedding(9, 8), nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, ids):
        length = ids.size(1)
        assert length <= 9  # decided with fake tensors, on the way to which torch imports much
        places = torch.arange(length, device=ids.device)
        hidden = self.words(ids) + self.places(places)
        hidden = torch.utils.checkpoint.checkpoint(torch.tanh, hidden, use_reentrant=True)
        return self.head(torch.where(hidden > torch.finfo(hidden.dtype).min, hidden, hidden))

class Failing(Net):
    def forward(self, ids):
        importlib.import_module("lazily_imported")
        return super().forward(ids) * float(super().forward(ids).sum())

HOMES = [torch, F, builtins, math, torch.utils.checkpoint, torch.backends.mha, torch.autograd.function,
         torch.nn.modules.activation, torch.nn.modules.transformer, torch.fx._symbolic_trace, torch.overrides,
         nn.Module, nn.MultiheadAttention, torch.Tensor, torch.autocast, torch.autograd.Function,
         type(torch.autograd.Function), torch.no_grad, torch.random]
STATES = [torch.is_grad_enabled, torch.backends.mha.get_fastpath_enabled, torch.get_default_dtype,
          torch._C._len_torch_function_stack, torch.fx._symbolic_trace._get_is_fx_tracing,
          lambda: list(sys.meta_path), lambda: hash(random.getstate()),
          lambda: hash(torch.get_rng_state().numpy().tobytes())]
IGNORED = {"manual_seed"}  # torch._dynamo wraps it when it is imported, whoever imports it

def attributes():
    return {(index, name): value for index, home in enumerate(HOMES) for name, value in vars(home).items()
            if name not in IGNORED and not isinstance(value, types.ModuleType)}

def states():
    return [state() for state in STATES]

def check(step):
    now = attributes()
    # what was there before is the same object; torch sets flags of its own where it imports something late
    changed = [(HOMES[i].__name__, name) for (i, name), value in ATTRIBUTES.items()
               if now.get((i, name)) is not value and (callable(value) or callable(now.get((i, name))))]
    added = [(HOMES[i].__name__, name) for i, name in now.keys() - ATTRIBUTES.keys() if callable(now[i, name])]
    assert not changed and not added, (step, changed, added)
    assert states() == STATES_BEFORE, (step, states(), STATES_BEFORE)

def refused(run):
    try:
        run()
    except (FxgrowError, ArithmeticError):
        return
    raise AssertionError("it was not refused")

ids, loss = torch.randint(9, (4, 5)), lambda output, target: F.cross_entropy(output.flatten(0, 1), target.flatten())
data = [(ids, torch.randint(3, (4, 5))) for _ in range(2)]
torch.manual_seed(0)
net, failing, base, stranger = Net(), Failing(), Net(), nn.Linear(1, 1)
ATTRIBUTES, STATES_BEFORE = attributes(), states()
"""

_WORK = """
warnings.simplefilter("ignore")
with tempfile.TemporaryDirectory() as folder:
    open(f"{folder}/lazily_imported.py", "w").write("from torch import finfo, zeros\\nfrom torch.nn import Module\\n"
                                                    "call, forward = Module.__call__, Module.__getattr__\\n")
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    refused(lambda: fxgrow.trace(failing, ids)); check("a failing trace")
    kept = sys.modules["lazily_imported"]
    assert kept.zeros is torch.zeros and kept.finfo is torch.finfo
    assert (kept.call, kept.forward) == (nn.Module.__call__, nn.Module.__getattr__)
    assert type(kept.__loader__) is type(kept.__spec__.loader) is SourceFileLoader
    traced = fxgrow.trace(net, ids); check("trace")
    refused(lambda: fxgrow.trace(net, torch.zeros(2, 3))); check("a trace of wrong inputs")
    scores = fxgrow.analyze(traced, loss, data, iterations=2); check("analyze")
    refused(lambda: fxgrow.analyze(traced, lambda *_: 1 / 0, data)); check("a failing analyze")
    grown = fxgrow.grow(traced, scores, budget=400); check("grow")
    refused(lambda: fxgrow.grow(traced, scores, budget=-1)); check("a failing grow")
    fxgrow.verify(net, grown, ids); check("verify")
    with torch.no_grad(): traced.head.bias += 1
    refused(lambda: fxgrow.verify(base, grown, ids)); check("a failing verify")
    fxgrow.save(grown, f"{folder}/model.pt"); check("save")
    fxgrow.load(f"{folder}/model.pt", base=base); check("load")
    refused(lambda: fxgrow.load(f"{folder}/model.pt", base=stranger)); check("a failing load")
"""

_COMPILE = """
other = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())
x = torch.ones(2, 4)
assert torch.allclose(torch.compile(other, backend="aot_eager", fullgraph=True)(x), other(x))
from torch._dynamo import utils
assert utils.unpatched_nn_module_call is nn.Module.__call__
assert utils.unpatched_nn_module_getattr is nn.Module.__getattr__
"""


def run(*parts: str) -> None:
    """Run a script in a fresh process."""
    script = "\n".join(textwrap.dedent(part) for part in parts)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_torch_is_as_it_was_after_every_function_and_after_each_of_them_failed():
    run(_PRELUDE, _WORK, _COMPILE)


@pytest.mark.parametrize("model", ["net", "failing"])
def test_torch_compile_works_after_the_first_trace_of_a_process(model: str):
    attempt = f"""
    try:
        fxgrow.trace({model}, ids)
    except FxgrowError:
        pass
    check("the first trace")
    """
    run("import sys; sys.modules['lazily_imported'] = sys", _PRELUDE, attempt, _COMPILE)

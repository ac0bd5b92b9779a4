"""Which passes there are, those of an installed package included."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch.fx as fx
from torch import nn

from fxgrow.errors import PassError
from fxgrow.passes import Pipeline, available_passes, describe_pass, find_pass, parse, register_pass
from fxgrow.passes import registry as registry_module
from fxgrow.passes.eliminate_dead_code import EliminateDeadCode
from fxgrow.record.record import record_of
from fxgrow.testing import check_pass

PLUGIN = '''
"""A package that adds a pass to fxgrow."""

from dataclasses import dataclass
from typing import ClassVar

import torch.fx as fx
from torch import nn

from fxgrow.passes import Pass


@dataclass(frozen=True)
class DropIdentities(Pass):
    """Let the readers of an identity read what it reads.

    Args:
        keep: Module paths to leave alone.
    """

    keep: tuple[str, ...] = ()

    name: ClassVar[str] = "drop-identities"

    def rewrite(self, graph_module: fx.GraphModule) -> None:
        """Drop them."""
        for node in list(graph_module.graph.nodes):
            if node.op == "call_module" and node.target not in self.keep:
                if type(graph_module.get_submodule(node.target)) is nn.Identity:
                    node.replace_all_uses_with(node.args[0])
                    graph_module.graph.erase_node(node)


class NoPass:
    pass
'''

ENTRY_POINTS = """[fxgrow.passes]
drop-identities = fxgrow_example:DropIdentities
eliminate-dead-code = fxgrow_example:DropIdentities
other-name = fxgrow_example:DropIdentities
no-pass = fxgrow_example:NoPass
broken = fxgrow_example_that_is_not_there:Broken
"""


def install(folder: Path, package: str, entry_points: str, source: str | None = None) -> None:
    """Lay a package out as an installer would."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if source is not None:
        (folder / f"{package}.py").write_text(source)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "fxgrow_example", ENTRY_POINTS, PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fxgrow_example", raising=False)
    return tmp_path


@pytest.fixture
def traced() -> fx.GraphModule:
    return fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.Identity(), nn.Linear(3, 3), nn.Identity()))


def test_built_in_passes_are_listed_and_described() -> None:
    assert {"eliminate-dead-code", "functionalize-inplace", "insert-pseudo-layers"} <= set(available_passes())
    for name in available_passes():
        description = describe_pass(name)
        assert description.name == name
        assert description.summary.endswith(".")


def test_the_options_of_a_pass_are_its_fields() -> None:
    options = {option.name: option for option in describe_pass("insert-pseudo-layers").options}
    assert list(options) == ["rows", "operator", "seed"]
    assert options["rows"].required
    assert options["rows"].type_name == "{str: [int, ...]}"
    assert (options["operator"].type_name, options["operator"].default) == ("str", "serial")


def test_a_package_adds_a_pass_by_an_entry_point(plugin: Path, traced: fx.GraphModule) -> None:
    assert "drop-identities" in available_passes()
    assert describe_pass("drop-identities").summary == "Let the readers of an identity read what it reads."
    result = parse('drop-identities{keep=["3"]}')(traced)
    assert [node.target for node in result.graph_module.graph.nodes if node.op == "call_module"] == ["0", "2", "3"]
    assert record_of(result.graph_module).edits == ('drop-identities{keep=["3"]}',)


def test_a_pass_of_a_package_keeps_the_promises_of_a_pass(plugin: Path, traced: fx.GraphModule) -> None:
    import torch

    from fxgrow.execution.shapes import propagate_shapes

    propagate_shapes(traced, torch.zeros(2, 3))
    assert check_pass(find_pass("drop-identities")(), traced).modified


def test_an_entry_point_cannot_replace_a_built_in_pass(plugin: Path) -> None:
    assert find_pass("eliminate-dead-code") is EliminateDeadCode


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("other-name", "fxgrow_example:DropIdentities calls itself 'drop-identities'; use one name for both"),
        ("no-pass", "fxgrow_example:NoPass is not a subclass of fxgrow.passes.Pass"),
        ("broken", "fxgrow_example_that_is_not_there:Broken cannot be imported: No module named"),
        ("drop-identity", "there is no pass of this name; did you mean 'drop-identities'?"),
    ],
)
def test_a_bad_entry_point_is_reported_when_it_is_used(plugin: Path, name: str, message: str) -> None:
    available_passes()
    with pytest.raises(PassError) as caught:
        find_pass(name)
    assert message in str(caught.value)


def test_two_packages_with_a_pass_of_one_name_are_refused(plugin: Path, tmp_path: Path) -> None:
    install(tmp_path, "fxgrow_other", "[fxgrow.passes]\ndrop-identities = fxgrow_other:Drop\n")
    with pytest.raises(PassError, match="several packages bring it: fxgrow_example:DropIdentities, fxgrow_other:Drop"):
        find_pass("drop-identities")


def test_a_pass_may_be_registered_for_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REGISTERED", {})

    class Other(EliminateDeadCode):
        name = "other"

    assert register_pass(register_pass(Other)) is Other
    assert "other" in available_passes()
    assert parse("other") == Pipeline((Other(),))
    with pytest.raises(PassError, match="pass 'other': another pass has this name"):
        register_pass(type("Third", (EliminateDeadCode,), {"name": "other"}))
    with pytest.raises(PassError, match="pass 'eliminate-dead-code': another pass has this name"):
        register_pass(type("Fourth", (EliminateDeadCode,), {}))


def test_the_folder_cannot_be_imported_as_passes() -> None:
    repository = Path(__file__).parents[2]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import passes"
    run = subprocess.run([sys.executable, "-c", code, str(repository)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ImportError: this folder is the package fxgrow.passes" in run.stderr

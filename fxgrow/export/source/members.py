"""What each module of the written source holds: parameters, modules of torch, and modules that are written too."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch.fx as fx
from torch import Tensor, nn

from fxgrow.errors import ExportError
from fxgrow.export.source.constructors import spell_constructor, spell_parameter
from fxgrow.export.source.expressions import Helpers
from fxgrow.export.source.scopes import Scope, follows_mode
from fxgrow.primitives.modules import fetch_attribute


@dataclass(frozen=True)
class Leaf:
    """A parameter, a buffer, or a module of torch."""

    text: str  #: what makes it
    kind: str  #: ``"parameter"``, ``"buffer"`` or ``"module"``


@dataclass(eq=False)
class Container:
    """A place that holds others: the module of a scope, or a list or dict between two of them."""

    scope: Scope | None = None
    items: "dict[str, Leaf | Container]" = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """How its items are reached: by attribute, by place, or by name."""
        if self.scope is not None or not self.items:
            return "attributes"
        if all(name.isdecimal() for name in self.items) and max(map(int, self.items)) < 3 * len(self.items):
            return "list"
        return "attributes" if all(name.isidentifier() for name in self.items) else "dict"

    def attribute(self, name: str) -> str:
        """Return the name of the attribute of an item, whose own name may be a number."""
        if name.isidentifier():
            return name
        plain = re.sub(r"\W", "_", f"layer_{name}")
        return plain if plain not in self.items else self.attribute(f"{name}_")


class Members:
    """The members of all scopes of a graph, by their paths."""

    def __init__(self, graph_module: fx.GraphModule, root: Scope, helpers: Helpers) -> None:
        self.graph_module, self.helpers = graph_module, helpers
        self.root = Container(root)
        self.leaves: dict[str, Leaf] = {}
        self.containers: dict[Scope, Container] = {root: self.root}
        self._add_all(root)
        for node in graph_module.graph.output_node().all_input_nodes:
            self._add_new(node)

    def _add_all(self, scope: Scope) -> None:
        """Add what a scope holds, in the order in which it is used."""
        for step in scope.steps:
            if isinstance(step, Scope):
                container = self._at(step.path)
                container.scope = step
                self.containers[step] = container
                self._add_all(step)
                continue
            for node in (*step.all_input_nodes, step):
                self._add_new(node)

    def _add_new(self, node: fx.Node) -> None:
        if node.op in ("get_attr", "call_module") and str(node.target) not in self.leaves:
            self._add_node(node)

    def _add_node(self, node: fx.Node) -> None:
        path = str(node.target)
        if node.op == "get_attr":
            value = fetch_attribute(self.graph_module, path)
            if not isinstance(value, Tensor):
                raise ExportError("it is no tensor", where=path, fix="export it --to pt2 or onnx")
            kind = "parameter" if isinstance(value, nn.Parameter) else "buffer"
            self._add(path, Leaf(spell_parameter(value, parameter=kind == "parameter"), kind))
        elif not follows_mode(self.graph_module, node):
            text = spell_constructor(self.graph_module.get_submodule(path), path, self.helpers)
            self._add(path, Leaf(text, "module"))

    def reach(self, path: str, scope: Scope) -> str:
        """Return the expression that reaches a path from the module of a scope around it."""
        container, text = self.containers[scope], "self"
        for part in path[len(scope.path) :].lstrip(".").split("."):
            if container.kind == "attributes":
                text += f".{container.attribute(part)}"
            else:
                text += f"[{part}]" if container.kind == "list" else f'["{part}"]'
            inner = container.items.get(part)  # None inside a module of torch
            container = inner if isinstance(inner, Container) else Container()
        return text

    def renamed(self, path: str) -> str:
        """Return the path in the written model: where a name had to change, another one."""
        container, parts = self.root, []
        for part in path.split("."):
            parts.append(container.attribute(part) if container.scope is not None else part)
            inner = container.items.get(part)
            container = inner if isinstance(inner, Container) else Container()
        return ".".join(parts)

    def _at(self, path: str) -> Container:
        container = self.root
        for part in path.split("."):
            inner = container.items.setdefault(part, Container())
            if not isinstance(inner, Container):
                what = "it holds modules, and is called as a whole"
                raise ExportError(what, where=path, fix="export it --to pt2 or onnx")
            container = inner
        return container

    def _add(self, path: str, leaf: Leaf) -> None:
        self.leaves[path] = leaf
        above, _, name = path.rpartition(".")
        if above in self.leaves:
            return  # a parameter of a module of torch, which makes it itself
        container = self._at(above) if above else self.root
        container.items[name] = leaf


def declarations(container: Container, class_names: dict[Scope, str], prefix: str = "self") -> Iterator[str]:
    """Yield the lines of ``__init__`` that make what a module holds."""
    for name, item in container.items.items():
        place = f"{prefix}.{container.attribute(name)}"
        if isinstance(item, Leaf) and item.kind == "buffer":
            yield f'{prefix}.register_buffer("{container.attribute(name)}", {item.text})'
        else:
            yield f"{place} = {_expression(item, class_names)}"
            yield from _inside(item, class_names, place)


def _inside(item: Leaf | Container, class_names: dict[Scope, str], place: str) -> Iterator[str]:
    """Yield the lines for what lies in a bare module, or in one that a list or dict holds."""
    if isinstance(item, Leaf) or item.scope is not None:
        return
    if item.kind == "attributes":
        yield from declarations(item, class_names, place)
        return
    for name, inner in item.items.items():
        yield from _inside(inner, class_names, f"{place}[{name}]" if item.kind == "list" else f'{place}["{name}"]')


def _expression(item: Leaf | Container, class_names: dict[Scope, str]) -> str:
    if isinstance(item, Leaf):
        return item.text
    if item.scope is not None:
        return f"{class_names[item.scope]}()"
    if item.kind == "attributes":
        return "nn.Module()"
    if item.kind == "list":
        return _list(item, class_names)
    inner = {name: _expression(inner, class_names) for name, inner in item.items.items()}
    pairs = ", ".join(f'"{name}": {text}' for name, text in inner.items())
    return f"nn.ModuleDict({{{pairs}}})"


def _list(container: Container, class_names: dict[Scope, str]) -> str:
    items = {int(name): item for name, item in container.items.items()}
    parameters = all(isinstance(item, Leaf) and item.kind == "parameter" for item in items.values())
    texts = [
        _expression(items[index], class_names) if index in items else "nn.Identity()" for index in range(max(items) + 1)
    ]
    kind = "nn.ParameterList" if parameters else "nn.ModuleList"
    if len(texts) > 1 and len(set(texts)) == 1:
        return f"{kind}([{texts[0]} for _ in range({len(texts)})])"
    return f"{kind}([{', '.join(texts)}])"

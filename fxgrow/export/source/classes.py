"""Write the classes of a model: one for each structure, however many modules have it."""

import builtins
import keyword
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch.fx as fx

from fxgrow.export.source.expressions import Helpers, reads_only, spell, spell_node
from fxgrow.export.source.layout import wrapped
from fxgrow.export.source.members import Members, declarations
from fxgrow.export.source.scopes import Scope, follows_mode
from fxgrow.primitives.residual import add_rows

#: names that the file has besides those of its classes
_IMPORTED = {"torch", "nn", "F", "Tensor", "operator", "math", "dataclass", "Any", "Path", "load_model", "WEIGHTS"}
_RESERVED = {*keyword.kwlist, *dir(builtins), "self", "load", *_IMPORTED}


@dataclass
class WrittenClass:
    """One class of the source."""

    name: str
    body: str  #: all but its head and its docstring
    paths: list[str] = field(default_factory=list)  #: the modules that it is the class of

    def source(self) -> str:
        """Return the text of the class."""
        shown = self.paths[: 3 if sum(map(len, self.paths[:3])) < 80 else 1]
        more = f" and {len(self.paths) - len(shown)} more" if len(self.paths) > len(shown) else ""
        where = ", ".join(f"`{path}`" for path in shown) + more
        doc = f'    """As at {where}."""\n\n' if self.paths != [""] else ""
        return f"class {self.name}(nn.Module):\n{doc}{self.body}"


class ClassWriter:
    """Writes the classes of a graph from the innermost to the model itself.

    Args:
        graph_module: Holds what the graph calls.
        graph: Its graph without identities.
        root: The tree of its modules.
        members: What these hold.
        helpers: Collects what fxgrow defines.
        kinds: The names of the classes that the modules had, by path.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        graph: fx.Graph,
        root: Scope,
        members: Members,
        helpers: Helpers,
        kinds: dict[str, str],
    ) -> None:
        self.graph_module, self.graph, self.root = graph_module, graph, root
        self.members, self.helpers, self.kinds = members, helpers, kinds
        self.classes: list[WrittenClass] = []
        self.class_names: dict[Scope, str] = {}
        self.inputs: dict[Scope, list[fx.Node]] = {}
        self.outputs: dict[Scope, list[fx.Node]] = {}

    def write(self, extra: Sequence[str]) -> list[WrittenClass]:
        """Return all classes, the model's last; `extra` are lines for the end of its ``__init__``."""
        for node in self.graph.nodes:
            if node.op == "call_function":
                self.helpers.take(node.target)  # before names of values are chosen
        self._write(self.root, extra)
        return self.classes

    def _write(self, scope: Scope, extra: Sequence[str] = ()) -> None:
        for step in scope.steps:
            if isinstance(step, Scope):
                self._write(step)
        self._find_ends(scope)
        made = [*declarations(self.members.containers[scope], self.class_names), *extra]
        body = _indented(["def __init__(self) -> None:", *(f"    {line}" for line in ["super().__init__()", *made])])
        body += "\n\n" + _indented(Forward(self, scope).lines())
        base = self.kinds.get(scope.path) or _class_case(scope.path)
        found = next((c for c in self.classes if c.body == body and c.name.rstrip("0123456789") == base), None)
        if found is None:
            found = WrittenClass(self._fresh(base), body)
            self.classes.append(found)
        found.paths.append(scope.path)
        self.class_names[scope] = found.name

    def _fresh(self, base: str) -> str:
        taken = {written.name for written in self.classes} | set(self.helpers.sources) | _RESERVED
        numbered = (f"{base}{number}" for number in range(2, len(taken) + 3))
        return next(name for name in (base, *numbered) if name not in taken)

    def _find_ends(self, scope: Scope) -> None:
        """Find what a module reads from outside, and what others read of it."""
        inside = set(scope.nodes())
        read: dict[fx.Node, None] = {}
        for node in scope.nodes():
            for source in _values_read(self.graph_module, node):
                here = source in inside or (source.op == "get_attr" and _lies_in(str(source.target), scope.path))
                if not here:
                    read[source] = None
        self.inputs[scope] = list(read)
        self.outputs[scope] = [node for node in scope.nodes() if any(user not in inside for user in node.users)]
        if not scope.path:
            self.inputs[scope] = list(self.graph.find_nodes(op="placeholder"))


class Forward:
    """The forward of one module."""

    def __init__(self, writer: ClassWriter, scope: Scope) -> None:
        self.writer, self.scope = writer, scope
        self.names: dict[fx.Node, str] = {}
        self.taken: set[str] = _RESERVED | set(writer.helpers.sources)

    def lines(self) -> list[str]:
        """Return the lines of the method."""
        for node in self.writer.inputs[self.scope]:
            self.names[node] = self._fresh(str(node.target) if node.op == "placeholder" else _input_name(node))
        for node in self.writer.graph.nodes:
            self._name_in_place(node)
        head = ", ".join(["self", *(self._parameter(node) for node in self.writer.inputs[self.scope])])
        body = _joined([*self._body(), self._return()])
        returns = " -> Tensor" if self._returns_tensor() else ""
        return [f"def forward({head}){returns}:", *(f"    {line}" for line in body)]

    def _parameter(self, node: fx.Node) -> str:
        name = self.names[node]
        kind = ": Tensor" if "tensor_meta" in node.meta or node.op == "get_attr" else ""
        if node.op == "placeholder" and node.args:
            return f"{name}{kind and f'{kind} | None'} = {spell(node.args[0], {}, node)}".replace("  ", " ")
        return name + kind

    def _name_in_place(self, node: fx.Node) -> None:
        """Name what is reached where it is read: tensors that the module holds, and values that follow the mode."""
        inside = str(node.target) in self.writer.members.leaves and _lies_in(str(node.target), self.scope.path)
        if node.op == "get_attr" and node not in self.names and inside:
            self.names[node] = self.writer.members.reach(str(node.target), self.scope)
        elif follows_mode(self.writer.graph_module, node):
            module = self.writer.graph_module.get_submodule(str(node.target))
            train, evaluation = (spell(value, {}, node) for value in (module.train_value, module.evaluation_value))
            plain = (train, evaluation) == ("True", "False")
            self.names[node] = "self.training" if plain else f"({train} if self.training else {evaluation})"

    def _body(self) -> Iterator[str]:
        steps = self.scope.steps
        index = 0
        while index < len(steps):
            run = self._chain(index)
            if run > 1:
                yield from self._loop(steps[index : index + run])  # type: ignore[arg-type]
                index += run
                continue
            step = steps[index]
            yield from self._call(step) if isinstance(step, Scope) else self._statement(step)
            index += 1

    def _statement(self, node: fx.Node) -> Iterator[str]:
        if node.target is operator.setitem:
            place, key, value = (spell(argument, self.names, node) for argument in node.args)
            yield f"{place}[{key}] = {value}"
            return
        callee = self.writer.members.reach(str(node.target), self.scope) if node.op == "call_module" else ""
        text = spell_node(node, callee, self.names, self.writer.helpers)
        if reads_only(node) and node not in self.writer.outputs[self.scope]:
            self.names[node] = text
        elif node.users:
            self.names[node] = self._fresh(_step_name(node))
            yield f"{self.names[node]} = {text}"
        else:
            yield text

    def _call(self, scope: Scope) -> Iterator[str]:
        callee = self.writer.members.reach(scope.path, self.scope)
        arguments = ", ".join(self.names[node] for node in self.writer.inputs[scope])
        outputs = self.writer.outputs[scope]
        for node in outputs:
            self.names[node] = self._fresh(_last_name(scope.path) if len(outputs) == 1 else _step_name(node))
        yield f"{', '.join(self.names[node] for node in outputs)} = {callee}({arguments})"

    def _chain(self, start: int) -> int:
        """Return how many calls from here on are those of a whole list, each reading what the one before made."""
        steps = self.scope.steps
        first = steps[start]
        if not isinstance(first, Scope) or not first.path.endswith(".0") or not self.writer.inputs[first]:
            return 0
        above = first.path[:-2]
        holder = self.writer.members.root
        for part in above.split("."):
            holder = holder.items[part]  # type: ignore[assignment]
        count = len(holder.items)
        run = steps[start : start + count]
        if holder.kind != "list" or len(run) < count:
            return 0
        previous: Scope | None = None
        for index, step in enumerate(run):
            if not isinstance(step, Scope) or step.path != f"{above}.{index}" or len(self.writer.outputs[step]) != 1:
                return 0
            if previous is not None and not self._follows(previous, step):
                return 0
            previous = step
        return count

    def _follows(self, one: Scope, other: Scope) -> bool:
        """Say whether `other` reads what `one` made in place of what that read first, and nobody else does."""
        (made,) = self.writer.outputs[one]
        inside = set(other.nodes())
        rest = self.writer.inputs[one][1:]
        return self.writer.inputs[other] == [made, *rest] and all(user in inside for user in made.users)

    def _loop(self, run: Sequence[Scope]) -> Iterator[str]:
        first, *rest = self.writer.inputs[run[0]]
        holder = self.writer.members.reach(run[0].path, self.scope)[: -len("[0]")]
        each = self._fresh(re.sub(r"s$", "", holder.rpartition(".")[2]) or "layer")
        value = self._fresh("x")
        if value != self.names[first]:
            yield f"{value} = {self.names[first]}"
        arguments = ", ".join([value, *(self.names[node] for node in rest)])
        yield f"for {each} in {holder}:"
        yield f"    {value} = {each}({arguments})"
        self.names[self.writer.outputs[run[-1]][0]] = value

    def _return(self) -> str:
        if not self.scope.path:
            output = self.writer.graph.output_node()
            return f"return {spell(output.args[0], self.names, output)}"
        return f"return {', '.join(self.names[node] for node in self.writer.outputs[self.scope])}"

    def _returns_tensor(self) -> bool:
        if not self.scope.path:
            made = self.writer.graph.output_node().args[0]
            return isinstance(made, fx.Node) and "tensor_meta" in made.meta
        outputs = self.writer.outputs[self.scope]
        return len(outputs) == 1 and "tensor_meta" in outputs[0].meta

    def _fresh(self, base: str) -> str:
        stem = base if base.isidentifier() else "x"
        stem = f"{stem}_" if stem in _RESERVED else stem
        name, number = stem, 0
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name


def _values_read(graph_module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    return [source for source in node.all_input_nodes if not follows_mode(graph_module, source)]


def _lies_in(path: str, scope: str) -> bool:
    return not scope or path.startswith(f"{scope}.")


def _input_name(node: fx.Node) -> str:
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[2]
    return "x" if "tensor_meta" in node.meta else "size"


def _step_name(node: fx.Node) -> str:
    if node.op == "call_module":
        return _last_name(str(node.target))
    if node.target is getattr:
        return str(node.args[1])
    if node.target is add_rows:
        return "grown"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "x")
    return "item" if name == "getitem" else str(name).strip("_")


def _last_name(path: str) -> str:
    """Return the last part of a path that is a name; of a list's item, the list's without its plural."""
    *above, last = path.split(".")
    if not last.isdecimal():
        return last
    return re.sub(r"s$", "", above[-1]) if above else "x"


def _class_case(path: str) -> str:
    name = re.sub(r"_pseudo_\d+$", "", _last_name(path)) if path else "Model"
    return "".join(part.capitalize() for part in re.split(r"\W|_", name) if part and not part[0].isdigit()) or "Block"


def _joined(lines: list[str]) -> list[str]:
    """Return the lines with what the last but one assigns returned at once, where the last returns it."""
    *rest, last = lines
    name = last.removeprefix("return ")
    if rest and name.isidentifier() and rest[-1].startswith(f"{name} = "):
        return [*rest[:-1], f"return {rest[-1].removeprefix(f'{name} = ')}"]
    return lines


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"    {piece}" for line in lines for piece in wrapped(line))

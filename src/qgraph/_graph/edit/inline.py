"""Local functions put in the place of their calls.

The node `mm` of a function that the node `layer.0` calls is then `layer.0/mm`: where calls stand
for modules, names say which. onnx's own inliner calls it `mm__7`, drops the metadata of the call,
and passes over functions of another opset than the model's without a word.

Tensors of the function's own get new names where the graph has theirs already, and what it gives is
called what the call gave, so that whoever reads it goes on reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import onnx
from onnx import helper

from qgraph._graph.bodies import bodies_of, copied, nodes_within, replace_nodes, tensor_names
from qgraph._graph.edit.names import fresh_name


def fresh_names(
    wanted: Sequence[str], taken: set[str], spell: Callable[[str], str] = str
) -> dict[str, str]:
    """Return name → what it is to be called, one that is not `taken`, which it then is."""
    found: dict[str, str] = {}
    for name in wanted:
        found[name] = fresh_name(spell(name), taken)
    return found


def renamed(node: onnx.NodeProto, names: Mapping[str, str], taken: set[str]) -> onnx.NodeProto:
    """Return a copy of `node` that reads and makes what `names` calls its tensors.

    What its bodies make gets a new name where the old one is `taken`.
    """
    made = copied(node)
    made.input[:] = [names.get(name, name) for name in node.input]
    made.output[:] = [names.get(name, name) for name in node.output]
    for body in bodies_of(made):
        _rename_body(body, names, taken)
    return made


def _rename_body(body: onnx.GraphProto, names: Mapping[str, str], taken: set[str]) -> None:
    own = [item.name for item in (*body.input, *body.initializer)]
    own += [name for node in body.node for name in node.output if name]
    inner = {**names, **fresh_names(list(dict.fromkeys(own)), taken)}
    for item in (*body.input, *body.initializer, *body.output, *body.value_info):
        item.name = inner.get(item.name, item.name)
    nodes = [renamed(node, inner, taken) for node in body.node]
    replace_nodes(body, nodes)


def given_as(outputs: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Return nodes that make each of `outputs` (name → the tensor it is equal to)."""
    return [helper.make_node("Identity", [given], [name]) for name, given in outputs.items()]


_Key = tuple[str, str, str]
_Table = Mapping[_Key, onnx.FunctionProto]


def inline_functions(model: onnx.ModelProto, *, to_read: bool = False) -> None:
    """Replace the calls of local functions by what these compute, in place.

    A function of another opset stays where one of its operators means something else in the
    model's, unless the model is to be read alone, not run. None calls itself: `_graph.io.parsing`
    lets no such model in.
    """
    versions = {item.domain: int(item.version) for item in model.opset_import}
    table: dict[_Key, onnx.FunctionProto] = {}
    for function in model.functions:
        if to_read or _means_the_same(function, versions):
            table[function.domain, function.name, function.overload] = function
    if not table:
        return
    taken = tensor_names(model.graph)
    replace_nodes(model.graph, _inlined(model.graph.node, table, taken))
    for function in table.values():
        for item in function.opset_import:
            if item.domain not in versions:
                versions[item.domain] = int(item.version)
                model.opset_import.append(item)
    if len(table) == len(model.functions):
        del model.functions[:]


def _means_the_same(function: onnx.FunctionProto, versions: Mapping[str, int]) -> bool:
    """Return whether the operators of a function are the same in opset `versions` as in its own."""
    for item in function.opset_import:
        there = versions.get(item.domain, item.version)
        ops = {n.op_type for n in nodes_within(function.node) if n.domain == item.domain}
        if item.domain == "" and any(_since(op, there) != _since(op, item.version) for op in ops):
            return False
    return True


def _since(op_type: str, opset: int) -> int:
    """Return the opset in which an operator got the form it has in `opset`; 0: there is none."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _inlined(
    nodes: Sequence[onnx.NodeProto], table: _Table, taken: set[str]
) -> Iterator[onnx.NodeProto]:
    """Yield `nodes`, what they call in the place of each call."""
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        if key not in table:
            for body in bodies_of(node):
                replace_nodes(body, _inlined(body.node, table, taken))
            yield node
        else:
            yield from _inlined(_called(node, table[key], taken), table, taken)


def _called(
    call: onnx.NodeProto, function: onnx.FunctionProto, taken: set[str]
) -> list[onnx.NodeProto]:
    """Return the nodes of `function` as `call` runs them."""
    prefix = call.name or f"{call.op_type}:{next(iter(call.output), '')}"
    given = dict(zip(function.input, [*call.input, *[""] * len(function.input)], strict=False))
    wanted = dict(zip(function.output, call.output, strict=False))
    made = [name for node in function.node for name in node.output if name]
    own = [name for name in made if not wanted.get(name)]
    names = {"": "", **fresh_names(own, taken, f"{prefix}/{{}}".format), **given}
    names |= {name: wanted[name] for name in made if wanted.get(name)}
    attributes = {item.name: item for item in (*function.attribute_proto, *call.attribute)}
    nodes = [renamed(_bound(node, attributes), names, taken) for node in function.node]
    for node in nodes:
        node.name = f"{prefix}/{node.name}" if node.name else ""
        known = {item.key for item in node.metadata_props}
        node.metadata_props.extend(item for item in call.metadata_props if item.key not in known)
    # what it gives may be what it was given
    return nodes + given_as(
        {out: given[name] for name, out in wanted.items() if name in given and out}
    )


def _bound(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """Return a copy of `node` with the values its attributes take from the call."""
    bound = copied(node)
    for inner in nodes_within([bound]):
        _bind(inner, attributes)
    return bound


def _bind(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> None:
    if not any(item.ref_attr_name for item in node.attribute):
        return
    kept = []
    for item in node.attribute:
        value = copied(attributes.get(item.ref_attr_name, item))
        value.name = item.name
        if not value.ref_attr_name:  # one that the call leaves out, and that has no default
            kept.append(value)
    del node.attribute[:]
    node.attribute.extend(kept)

"""Views are plain data: selected, sorted, compared, and described by the schema that docs/ publishes."""

import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pytest

from fxgrow.errors import FxgrowError
from fxgrow.files import describe
from fxgrow.files.plain import to_plain
from fxgrow.files.schema import json_schema as file_schema
from fxgrow.inspection import (
    Selection,
    list_parameters,
    list_sites,
    summarize,
    to_dot,
    to_html,
    to_json,
    to_plain_text,
    to_svg,
    view_diff,
    view_graph,
    view_history,
    view_model,
    view_node,
    view_tree,
)
from fxgrow.inspection.arcs import _lanes
from fxgrow.inspection.schema import VIEWS, json_schema
from fxgrow.passes import parse

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def views(base, grown):
    return {
        "model": view_model(grown), "tree": view_tree(grown), "table": list_sites(grown), "graph": view_graph(grown),
        "node": view_node(grown, "blocks.0.fc1"), "parameters": list_parameters(grown),
        "history": view_history(grown), "diff": view_diff(base, grown), "summary": summarize(grown),
    }  # fmt: skip


@pytest.mark.parametrize(("page", "make"), [("file_schema", file_schema), ("inspection_schema", json_schema)])
def test_the_published_schema_is_that_of_the_types(page, make):
    published = json.loads((DOCS / f"{page}.json").read_text())
    assert published == json.loads(json.dumps(make())), "python .ci/schemas.py writes it"


def test_a_table_is_as_the_published_schema_says(grown):
    schema = json.loads((DOCS / "file_schema.json").read_text())
    plain = json.loads(json.dumps(to_plain(describe(grown))))
    jsonschema.validate(plain, schema)
    plain["nodes"][0]["name"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain, schema)


@pytest.mark.parametrize("name", VIEWS)
def test_the_json_of_each_view_is_as_the_published_schema_says(views, name):
    schema = json.loads((DOCS / "inspection_schema.json").read_text())
    document = json.loads(to_json(views[name]))
    assert (document["view"], document["version"]) == (name, 1)
    jsonschema.validate(document, schema)
    document["data"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


@pytest.mark.parametrize("name", VIEWS)
def test_each_view_is_a_page_of_whole_html_with_nothing_to_fetch(views, name):
    class Checker(HTMLParser):
        open: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            assert tag not in ("script", "link", "img")
            if tag not in ("meta", "path", "circle"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("path", "circle"):
                assert self.open.pop() == tag

    checker = Checker()
    checker.feed(to_html(views[name]))
    assert checker.open == []


def test_the_strings_of_a_file_cannot_write_html(grown):
    view = view_node(grown, "head")
    assert "<b>" not in to_html(type(view)("<b>head", view.nodes, view.below))


def test_what_is_no_view_is_refused():
    with pytest.raises(TypeError, match="int is no view"):
        to_json(3)
    with pytest.raises(TypeError, match="int is no view"):
        to_plain_text(3)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(blocks=("blocks.1",)), {"blocks.1.fc1", "blocks.1.fc2"}),
        (Selection(blocks=("blocks.[13]",), sites=("blocks.?.fc1",)), {"blocks.1.fc1", "blocks.3.fc1"}),
        (Selection(sites=("head",)), {"head"}),
        (Selection(blocks=("blocks.0",), grown=True), {"blocks.0.fc1", "blocks.0.fc1_pseudo_0.fc1"}),
    ],
)
def test_a_selection_holds_the_sites_asked_for_and_what_grew_at_them(grown, selection, expected):
    paths = {site.path for site in list_sites(grown, selection).sites}
    own = {path for path in paths if "_pseudo_" not in path or path in expected}
    assert own == expected
    assert all(any(path.startswith(site) for site in expected) for path in paths)


def test_only_sites_that_can_grow_are_those_without_refusal(grown):
    chosen = list_sites(grown, Selection(can_grow=True)).sites
    assert chosen
    assert all(site.refusal is None for site in chosen)


def test_a_selected_tree_keeps_the_summary_of_the_whole(grown):
    view = view_tree(grown, Selection(blocks=("blocks.0",)))
    assert {item.path.split(".")[0] for item in view.tree.children} == {"blocks"}
    assert view.summary == summarize(grown)


def test_a_selection_of_nothing_names_what_is_close(grown):
    with pytest.raises(FxgrowError, match=r"--block blocks\.9.*nothing of the model is selected; did you mean"):
        view_tree(grown, Selection(blocks=("blocks.9",)))


def test_sites_are_sorted_by_how_much_they_ask_for_growth(base):
    from fxgrow.testing import random_scores

    random_scores(base).annotate(base)
    sites = list_sites(base, order="score").sites
    urgencies = [site.scores.urgency for site in sites]
    assert urgencies == sorted(urgencies, reverse=True)
    assert [s.path for s in list_sites(base, order="name").sites] == sorted(site.path for site in sites)
    with pytest.raises(FxgrowError, match="did you mean 'score'"):
        list_sites(base, order="scor")


def test_the_table_of_sites_agrees_with_the_parameters(grown):
    sizes = {name: parameter.numel() for name, parameter in grown.named_parameters()}
    for site in list_sites(grown).sites:
        assert site.parameters == sum(size for name, size in sizes.items() if name.rpartition(".")[0] == site.path)


def test_the_graph_has_the_edges_of_the_model(grown):
    view = view_graph(grown)
    expected = {(s.name, n.name) for n in grown.graph.nodes for s in n.all_input_nodes if s.op != "get_attr"}
    assert set(view.edges) == expected
    marked = {node.name for node in view.nodes if node.grown}
    assert marked
    assert all("pseudo" in node.grown for node in view.nodes if node.grown)


def test_dot_quotes_what_it_writes(grown):
    view = view_graph(grown)
    dot = to_dot(type(view)('a"b\\', view.nodes, view.edges))
    assert dot.startswith('digraph "a\\"b\\\\" {')
    assert dot.count(" -> ") == len(view.edges)


def test_a_drawing_is_whole_svg_with_each_node_and_each_edge(grown):
    view = view_graph(grown)
    root = ElementTree.fromstring(to_svg(view))
    names = {"svg": "http://www.w3.org/2000/svg"}
    assert len(root.findall(".//svg:text", names)) == len(view.nodes)
    chains = root.findall(".//svg:path[@class='chain']", names)
    arcs = root.findall(".//svg:path[@class='arc']", names)
    assert len(chains) + len(arcs) == len(view.edges)


def test_arcs_of_one_lane_do_not_overlap():
    arcs = [(0, 9), (1, 3), (2, 5), (3, 8), (5, 7), (8, 10)]
    lanes = _lanes(arcs)
    for index, (start, end) in enumerate(arcs):
        for (other_start, other_end), lane in zip(arcs[index + 1 :], lanes[index + 1 :], strict=True):
            overlap = start < other_end and other_start < end
            assert not (overlap and lane == lanes[index])


def test_a_diff_says_what_grew_where_and_why(base, grown):
    from dataclasses import replace

    from fxgrow.record.record import Evidence, revise_growths

    revise_growths(grown, lambda growth: replace(growth, evidence=Evidence("eigen", -0.5, 0.1)))
    view = view_diff(base, grown)
    assert view.descends
    assert len(view.events) == 2
    assert {(change.site, change.before, change.after) for change in view.depths} == {
        ("blocks.0.fc1", 0, 2), ("blocks.1.fc2", 0, 1), ("blocks.2.fc2", 0, 1),
    }  # fmt: skip
    assert view.changes == ()
    text = to_plain_text(view)
    assert "blocks.0.fc1" in text
    assert "-0.5 ± 0.1" in text


def test_a_diff_shows_only_the_events_between(grown):
    later = parse('insert-pseudo-layers{rows={"blocks.3.fc1":[0]}}')(grown).graph_module
    view = view_diff(grown, later)
    assert [growth.site for event in view.events for growth in event.growths] == ["blocks.3.fc1"]
    assert len(view.edits) == 1


def test_a_diff_with_another_model_says_so(base, grown):
    view = view_diff(grown, base)
    assert not view.descends
    assert "does not go on from the first" in to_plain_text(view)
    assert view_diff(base, base).changes == ()
    assert "nothing changed" in to_plain_text(view_diff(base, base))


def test_a_history_lists_each_site_of_each_event(base, grown):
    text = to_plain_text(view_history(grown))
    for event in view_history(grown).history:
        assert all(growth.site in text for growth in event.growths)
    assert "nothing grew yet" in to_plain_text(view_history(base))

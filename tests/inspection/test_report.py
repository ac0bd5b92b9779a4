import re
from dataclasses import replace

import pytest
import torch
from rich.cells import cell_len
from torch import nn

import fxgrow
from fxgrow.files import describe
from fxgrow.inspection import summarize, to_text, view_tree
from fxgrow.primitives.modules import parameter_count
from fxgrow.record.record import Evidence, Growth, GrowthEvent, Origin, update_record


def look(model, everything=False):
    return to_text(view_tree(model, everything=everything))


def line_of(text, label):
    """The one line whose label, without guides and marks, is `label`."""
    (found,) = [line for line in text.splitlines() if re.match(rf"[│├└─|`+⊕\s-]*{re.escape(label)}(\s|$)", line)]
    return found


def annotate_scores(graph_module):
    from fxgrow.curvature.scores import Scores, SiteScores
    from fxgrow.graph.sites import find_sites
    from fxgrow.record.digest import digest

    sites = {}
    for path, site in find_sites(graph_module).items():
        found = -0.001 * torch.arange(1, site.neurons + 1, dtype=torch.float64)
        sites[path] = SiteScores(found, found / 2, torch.full_like(found, 0.001), matrix="branch", reliability=0.5)
    Scores(sites, score="eigen", digest=digest(graph_module), samples=256).annotate(graph_module)


def test_blocks_that_are_alike_are_drawn_once(base, draw):
    text = draw(look(base))
    assert "4 alike" in line_of(text, "blocks.0-3")
    assert text.count("fc1") == 1
    assert "4 × 296" in text


def test_everything_draws_each_block_and_each_function(base, draw):
    text = draw(look(base, everything=True))
    assert text.count("fc1") == 4
    assert "Dropout" in text
    assert re.search(r"add\w*\s+add", text)


def test_a_line_says_operation_output_and_parameters(base, draw):
    text = draw(look(base))
    assert re.search(r"fc1\s+Linear\s+2×3×16\s+144$", line_of(text, "fc1"))
    assert re.search(r"position\s+parameter\s+1×3×8\s+24$", line_of(text, "position"))
    assert re.search(r"stem\.0\s+Linear\s+2×3×8\s+56$", line_of(text, "stem.0"))


def test_the_parameters_of_the_top_lines_add_up(grown, draw):
    lines = [line for line in draw(look(grown)).splitlines() if line.startswith(("├", "└"))]
    numbers = [re.findall(r"\d+", line)[-2:] for line in lines]
    assert len(numbers) == 4
    total = sum(int(re.search(r"(\d[\d,]*)\s*$", line).group(1).replace(",", "")) for line in lines)
    assert total == parameter_count(grown)


def test_pseudo_layers_hang_below_their_site_with_their_residual_edge(grown, draw):
    text = draw(look(grown))
    lines = text.splitlines()
    site = next(index for index, line in enumerate(lines) if "fc1 " in line)
    assert re.search(r"fc1\s+Linear\s+2×3×16\s+144\s+2$", lines[site])
    assert re.search(r"⊕ pseudo_0\s+serial\s+→ 2 of 16\s+\d+\s+1$", lines[site + 1])
    assert re.search(r"⊕ pseudo_0\s+branch\s+→ 1 of 2\s+\d+\s+2$", lines[site + 3])
    assert "⊕ pseudo-layer, → residual edge" in text


def test_blocks_that_grew_alike_are_drawn_once(grown, draw):
    assert "2 alike" in line_of(draw(look(grown)), "1-2")


def test_nothing_grown_means_no_column_of_depths(base, grown, draw):
    assert "depth" not in draw(look(base)).splitlines()[2]
    assert "depth" in draw(look(grown)).splitlines()[2]


def test_scores_are_shown_as_least_median_and_share(base, draw):
    annotate_scores(base)
    text = draw(look(base))
    # 6 neurons of the head: -0.001 to -0.006; held out half of that, with an error of 0.001: above 4 is significant
    assert re.search(r"least -6\.0e-3\s+median -3\.5e-3\s+\S+\s+33 %", text)
    assert "eigen scores (branch) of 256 samples, split-half correlation 0.50" in text


def test_pooled_scores_have_one_bar_for_each_block(base, draw):
    annotate_scores(base)
    text = draw(look(base))
    # fc1 has 16 neurons in each of 4 blocks, 12 of them significant
    assert re.search(r"least -0\.016\s+median -8\.5e-3\s+▆▆▆▆\s+75 %", text)
    assert "the same site in each of the blocks" in text


def test_scores_of_an_earlier_graph_are_called_so(grown, base, draw):
    annotate_scores(base)
    from fxgrow.passes import parse

    later = parse('insert-pseudo-layers{rows={"blocks.3.fc1":[0]}}')(base).graph_module
    assert "measured before the last change of the graph" in draw(look(later))
    assert "measured before" not in draw(look(base))


def test_sites_that_cannot_grow_say_why(draw):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.c(self.b(self.a(x).relu()).relu())

    text = draw(look(fxgrow.trace(Tied(), torch.randn(2, 4))))
    assert "cannot grow: its weight is tied to b.weight" in text
    assert "grows only if it is included by name" in text
    assert "3 sites, 1 can grow" in text


def test_the_summary_tells_size_work_and_history(base, draw):
    update_record(
        base,
        origin=Origin("timm", "some_model", {"num_classes": 6}),
        trace_notes=("blocks.9 stays whole: it is odd",),
        history=(
            GrowthEvent(
                parameters_before=1000,
                parameters_after=parameter_count(base),
                budget=400,
                allocation="even",
                growths=(
                    Growth("pseudo-layer", "a", 100, 3, "a_pseudo_0", "serial", Evidence("eigen", -0.1, 0.01)),
                    Growth("pseudo-layer", "b", 50, 1, "b_pseudo_0", "serial", Evidence("eigen", -0.3, 0.04)),
                ),
                first_edit=0,
                context={"epoch": 7},
            ),
        ),
    )
    text = draw(look(base))
    assert text.startswith("some_model  timm, num_classes=6\n")
    assert "1,312 parameters, +31.2 % on 1,000" in text
    assert re.search(r"1 \(epoch 7\)\s+1,000 → 1,312\s+2\s+4\s+serial\s+-0\.15 ± 0\.013", text)
    assert "note: blocks.9 stays whole: it is odd" in text


def test_work_is_that_of_one_sample(base, draw):
    # per position: 6*8 + 4 blocks x 2*8*16 + 8*6 multiply-adds; 3 positions
    assert f"{2 * 3 * (48 + 4 * 256 + 48) / 1000:.2f} kFLOPs for one sample of 3×6" in draw(to_text(summarize(base)))


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("everything", [False, True])
def test_no_line_is_longer_than_the_terminal_and_nothing_is_cut(grown, draw, width, everything):
    annotate_scores(grown)
    text = draw(look(grown, everything=everything), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for word in ("pseudo_0", "Linear", "2×3×16", "least", "median", "%", "blocks"):
        assert word in text


def test_long_names_are_folded_and_not_cut(draw):
    name = "a_name_that_is_much_longer_than_any_reasonable_column_of_a_terminal_would_be"
    model = nn.Sequential()
    model.add_module(name, nn.Linear(3, 3))
    text = draw(look(fxgrow.trace(model, torch.randn(2, 3))))
    lines = text.split("\n\n")[1].splitlines()
    assert max(map(len, lines)) <= 80
    width = lines[0].index("operation")
    assert "".join(line[3:width].strip() for line in lines[1:]) == name


def test_an_ascii_terminal_gets_ascii(grown, draw):
    annotate_scores(grown)
    text = draw(look(grown), encoding="ascii")
    assert text.isascii()
    assert "|- " in text
    assert "-> 2 of 16" in text
    assert "2x3x16" in text
    assert "?" not in text


def test_colour_adds_nothing_that_plain_text_lacks(grown, draw):
    annotate_scores(grown)
    coloured = draw(look(grown), color=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == draw(look(grown))


def test_the_strings_of_a_file_cannot_steer_the_terminal(base, draw):
    table = describe(base)
    row = next(row for row in table.nodes if row.target == "head")
    evil = replace(row, target="head\x1b[2J[red]", module_type="x.\x1b]0;owned\x07")
    nodes = tuple(evil if other is row else other for other in table.nodes)
    text = draw(look(replace(table, nodes=nodes, name="\x1b[31mname")))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]" in text


def test_rendering_runs_neither_the_model_nor_a_layer_with_weights(base, draw, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("the model ran")

    for kind in {type(module) for module in base.modules() if module._parameters or module is base}:
        monkeypatch.setattr(kind, "forward", forbidden)
    assert "blocks" in draw(look(base))


def test_a_model_without_shapes_is_drawn_too(draw):
    text = draw(look(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))))
    assert re.search(r"0\s+Linear\s+16$", line_of(text, "0"))
    assert "FLOPs" not in text


def test_a_reused_module_is_one_line(draw):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x).relu())

    text = draw(look(fxgrow.trace(Twice(), torch.randn(2, 3))))
    assert text.count("layer ") == 1
    assert text.splitlines()[3].split()[-1] == "12"


def test_a_functional_site_has_its_parameters(draw):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Module()
            self.inner.weight = nn.Parameter(torch.randn(4, 3))
            self.bias = nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return nn.functional.linear(x, self.inner.weight, self.bias).relu()

    text = draw(look(fxgrow.trace(Functional(), torch.randn(2, 3))))
    assert re.search(r"inner\s+linear\s+2×4\s+16$", line_of(text, "inner"))

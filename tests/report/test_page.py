"""The page: well-formed, self-contained, and with the model's own numbers."""

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser

import pytest

import fxgrow
from fxgrow.cli import main
from fxgrow.errors import FileError
from fxgrow.files import describe
from fxgrow.report import render_report, write_report
from fxgrow.report.network import runs, spelled_runs
from fxgrow.results import Results, read_results

_VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and keeps attributes, texts and the cells of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.rows, self.words = [], [], [], ""
        self.feed(text)
        assert self.open == [], "something is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append((dict(attrs), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][1][-1] += data

    def attributes(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def text(folder):
    return render_report(read_results(folder))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def drawn_depths(page: Page) -> dict[str, list[int]]:
    """Read the depth of each neuron back from the strips, as they are drawn."""
    found: dict[str, list[int]] = {}
    for tag, attrs in page.tags:
        if tag == "svg" and "data-site" in attrs:
            current = found[attrs["data-site"]] = [0] * int(attrs["viewbox"].split()[2])
        elif tag == "path" and "data-depth" in attrs:
            for first, width in re.findall(r"M(\d+) 0h(\d+)v1", attrs["d"]):
                current[int(first) : int(first) + int(width)] = [int(attrs["data-depth"])] * int(width)
    return found


def own_depths(model) -> dict[str, list[int]]:
    return {site: depths for site, depths in fxgrow.depth_map(model).items() if "_pseudo_" not in site}


def test_the_strips_are_the_depth_map_of_the_model(page, grown) -> None:
    assert drawn_depths(page) == own_depths(grown)
    assert max(map(max, own_depths(grown).values())) == 2


def test_the_tables_name_the_neurons_of_each_depth(page, grown) -> None:
    expected = own_depths(grown)
    rows = [(attrs["data-site"], cells) for attrs, cells in page.rows if "data-site" in attrs]
    assert rows
    for site, (_, depth, count, which) in rows:
        listed = [pair.split("-") for pair in which.split(", ")]
        neurons = [neuron for pair in listed for neuron in range(int(pair[0]), int(pair[-1]) + 1)]
        assert neurons == [neuron for neuron, at in enumerate(expected[site]) if at == int(depth)]
        assert len(neurons) == int(count)


def test_the_page_needs_nothing_but_itself(text, page) -> None:
    assert "<script" not in text
    assert "default-src 'none'" in text
    outside = [value for name in ("href", "src", "xlink:href") for value in page.attributes(name)]
    assert all(value.startswith(("#", "data:")) for value in outside)
    assert "url(http" not in text
    assert "@import" not in text


def test_every_id_is_the_only_one_and_every_link_leads_somewhere(page) -> None:
    ids = page.attributes("id")
    assert [name for name, times in Counter(ids).items() if times > 1] == []
    links = [value for name in ("href", "xlink:href") for value in page.attributes(name) if value.startswith("#")]
    assert {link[1:] for link in links} <= set(ids)
    assert set(page.attributes("aria-labelledby")) <= set(ids)


def test_every_picture_has_a_name_and_a_table(page) -> None:
    pictures = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert all(attrs.get("aria-label") and attrs.get("role") == "img" for attrs in pictures)
    curves = page.attributes("data-quantity")
    assert curves == ["test_loss", "test_accuracy", "train_loss", "parameters", "flops", "learning_rate"]


def test_events_stand_with_their_evidence(page, grown) -> None:
    history = grown.meta["fxgrow"].history
    for event in history:
        for growth in event.growths:
            site = next(site for site in event.scores if site.site == growth.site)
            rows = [cells for _, cells in page.rows if cells[0].strip() == growth.site]
            assert any(cells[2].strip() == f"{site.significant} of {site.neurons}" for cells in rows)
            assert any(cells[5].strip() == str(growth.neurons) for cells in rows)
    assert "after: before event 2 (epoch 2)" in page.words
    assert "after: at the end" in page.words


def test_what_a_file_says_is_text_and_never_markup(text, page, folder) -> None:
    assert "&lt;script&gt;x&lt;/script&gt;" in text
    assert f"fxgrow train {folder}/recipe.toml" in page.words


def test_other_runs_stand_beside_it(folder) -> None:
    run = read_results(folder)
    other = Results("other", run.table, {"grown": run.metrics["grown"][:3]})
    rows = {cells[0]: cells for _, cells in Page(render_report(run, compare=[other])).rows if len(cells) == 8}
    assert {"grown", "base", "other: grown"} <= set(rows)
    assert rows["other: grown"][1].strip() == "2"


def test_a_model_that_did_not_grow_and_has_no_metrics_has_a_page(batches) -> None:
    from .conftest import Network

    page = Page(render_report(Results("base.pt", describe(fxgrow.trace(Network(), batches[0][0])))))
    assert {depth for depths in drawn_depths(page).values() for depth in depths} == {0}
    assert "Growth events" not in page.words


def test_the_same_run_gives_the_same_page(folder, text) -> None:
    assert render_report(read_results(folder)) == text


def test_nine_events_of_a_deit_s_stay_below_three_megabytes(deit) -> None:
    text = render_report(deit)
    assert len(text.encode()) < 3e6
    assert len(Page(text).tags) < 20_000, "a browser is quick with so many elements"
    assert text.count('class="event"') == 9
    assert drawn_depths(Page(text)) == {
        site: depths for site, depths in deit.table.depth_map.items() if "_pseudo_" not in site
    }


def test_the_command_writes_the_page_and_never_over_another(folder, tmp_path, capsys) -> None:
    target = tmp_path / "report.html"
    assert main(["report", str(folder), "--compare", str(folder), "-o", str(target)]) == 0
    assert "small: grown" in target.read_text()
    assert f"wrote {target}" in capsys.readouterr().out.replace("\n", "")
    assert main(["report", str(folder), "-o", str(target)]) == 2
    assert "it exists already" in capsys.readouterr().err
    assert main(["report", str(folder), "-o", str(target), "--force"]) == 0


def test_without_matplotlib_the_extra_is_named(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(FileError, match=r"pip install 'fxgrow\[report\]'"):
        write_report(read_results(folder), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_runs_of_neurons_are_spelled_as_ranges() -> None:
    assert list(runs([0, 1, 1, 2, 1], 1)) == [(1, 2), (4, 4)]
    assert spelled_runs([(1, 2), (4, 4)]) == "1-2, 4"


def test_the_page_is_made_without_torch(folder, tmp_path):
    code = "import sys; sys.modules['torch'] = None; from fxgrow.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "report", str(folder), "-o", str(tmp_path / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_blocks_that_woke_are_strips_of_the_time_that_they_ran(woken):
    page = Page(render_report(woken))
    drawn = {
        attrs["data-block"]: attrs["viewbox"] for tag, attrs in page.tags if tag == "svg" and "data-block" in attrs
    }
    assert drawn == dict.fromkeys(("blocks.0", "blocks.1", "blocks.2"), "0 0 4.0 1")
    cells = [cells for _, cells in page.rows if cells[0].startswith("blocks.")]
    assert cells[0] == ["blocks.0", "the start", "–"]
    assert sorted(row[1] for row in cells[1:]) == ["event 1 (epoch 1)", "event 2 (epoch 2.5)"]
    assert {row[2] for row in cells[1:]} <= {"blocks.0", "blocks.1"}
    assert "pseudo-layers</a> each goes through" not in page.words
    assert "has no scores" not in page.words

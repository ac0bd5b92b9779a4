import json
import os
import re

import pytest
import torch

import fxgrow
from fxgrow.files import read_table


def test_the_grown_model_is_within_its_budget_and_scored(files):
    before, after = read_table(files["traced"]).parameters, read_table(files["grown"]).parameters
    assert 0.95 * 0.2 <= (after - before) / before <= 0.2
    assert any("scores" in row.annotation for row in read_table(files["scored"]).nodes)
    assert not any("scores" in row.annotation for row in read_table(files["traced"]).nodes)


def test_the_grown_model_computes_the_same(files):
    before, after = fxgrow.load(files["traced"]).eval(), fxgrow.load(files["grown"]).eval()
    x = torch.randn(3, 3, 16, 16)
    assert torch.allclose(before(x), after(x), atol=1e-6)


def test_verify_says_equal(files, run):
    status, out, err = run("verify", files["traced"], files["grown"])
    assert (status, err) == (0, "")
    assert re.match(r"equal: \d+ outputs, \d+ gradients", out)


def test_verify_says_where_two_models_differ(files, run, tmp_path):
    other = fxgrow.load(files["grown"])
    with torch.no_grad():
        other.get_parameter("blocks.1.mlp.fc1.bias").add_(1.0)
    fxgrow.save(other, tmp_path / "other.pt")
    status, out, err = run("verify", files["traced"], tmp_path / "other.pt")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "other.pt differs from" in err


def test_inspect_draws_the_tree(files, run):
    status, out, _ = run("inspect", files["grown"])
    assert status == 0
    assert out.startswith("vit_tiny_patch16_224  timm, num_classes=10")
    assert "pseudo_0" in out
    assert max(map(len, out.splitlines())) <= 80


def test_inspect_prints_json(files, run):
    _, out, _ = run("inspect", files["grown"], "--json")
    model = json.loads(out)["data"]
    assert model["summary"]["origin"]["name"] == "vit_tiny_patch16_224"
    assert len(model["edits"]) == 1
    assert model["summary"]["flops"] > 0
    site = next(node for node in model["nodes"] if node["target"] == "blocks.0.mlp.fc1")
    assert site["site"]["neurons"] == len(site["annotation"]["scores"]["held_out"]) == 96


def test_inspect_shows_one_node(files, run):
    status, out, _ = run("inspect", files["grown"], "--node", "blocks.0.mlp.fc1")
    assert status == 0
    assert "96 neurons of 24 features each" in out


def test_inspect_imports_neither_model_code_nor_torch(files):
    import subprocess
    import sys

    heavy = ("torch", "numpy", "timm", "torchvision", "matplotlib", "sklearn")
    script = (
        "import sys; from fxgrow.cli import main; main(['inspect', sys.argv[1]]);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script, files["grown"]], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "[]", found.stderr


def test_the_same_command_gives_the_same_scores(files, tmp_path, run):
    again = tmp_path / "scored.pt"
    status, _, _ = run("score", files["traced"], "--data", "digits", "-o", again)
    assert status == 0
    assert read_table(again).nodes == read_table(files["scored"]).nodes


def test_score_without_output_changes_no_file(files, run, tmp_path):
    before = os.stat(files["traced"])
    _, out, _ = run("score", files["traced"], "--data", "digits", "--sites", "blocks.0.mlp.*")
    assert "the scores were not written; give -o FILE" in out
    assert os.stat(files["traced"]) == before


def test_a_grown_model_is_scored_and_grown_again(files, run, tmp_path):
    scored, grown = tmp_path / "scored.pt", tmp_path / "grown.pt"
    assert run("score", files["grown"], "--data", "digits", "-o", scored)[0] == 0
    status, out, _ = run("grow", scored, "--budget", 600, "--include", "blocks.*.mlp.*", "-o", grown)
    assert status == 0
    assert re.search(r"^2\s", out, re.MULTILINE)
    assert len(read_table(grown).record.edits) == 2


def test_grow_obeys_include_and_exclude(files, run, tmp_path):
    options = ("--include", "blocks.*", "--exclude", "blocks.0.*", "--exclude", "*.attn.*")
    assert run("grow", files["scored"], "--budget", 0.1, *options, "-o", tmp_path / "x.pt")[0] == 0
    history = read_table(tmp_path / "x.pt").record.history
    assert {growth.site for growth in history[0].growths} == {"blocks.1.mlp.fc1", "blocks.1.mlp.fc2"}


@pytest.mark.parametrize("operator", ["gated", "signed", "serial"])
def test_growing_from_a_file_says_where_an_operator_starts_at_random(files, run, tmp_path, operator):
    _, _, err = run("grow", files["scored"], "--budget", "5%", "--operator", operator, "-o", tmp_path / "grown.pt")
    assert ("scores in a file have no eigenvectors" in err) == (operator != "serial")

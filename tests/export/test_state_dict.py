"""The names in a state dict are the model's own, and those of what grew: clean, and the same wherever one looks."""

import re

import torch

import fxgrow
from fxgrow.passes import find_pass

NEW = re.compile(r"(?P<site>.+?)_pseudo_\d+\.(?P<rest>.+)")
#: what fx, torch.compile and torch.export put into names
GENERATED = re.compile(r"_orig_mod|_tensor_constant|submod_|_param_constant|_lifted|p_|b_|\bget_attr|_fx_")


def test_the_names_of_the_model_come_first_and_in_its_order(model, grown) -> None:
    own = list(model.state_dict())
    names = list(grown.state_dict())
    assert [name for name in names if NEW.fullmatch(name) is None] == own


def test_every_other_name_is_that_of_a_site_and_of_a_part_of_its_pseudo_layer(model, grown) -> None:
    added = [name for name in grown.state_dict() if name not in model.state_dict()]
    assert added
    sites = {path for path, _ in model.named_modules()}
    for name in added:
        match = NEW.fullmatch(name)
        assert match is not None
        assert match["site"] in sites
        assert not GENERATED.search(match["rest"])


def test_a_checkpoint_of_the_model_loads_with_exactly_the_new_keys_missing(model, grown) -> None:
    result = grown.load_state_dict(model.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) == set(grown.state_dict()) - set(model.state_dict())


def test_compiling_saving_loading_and_rewriting_keep_the_names(model, grown, inputs, tmp_path) -> None:
    names = list(grown.state_dict())
    compiled = fxgrow.compile(grown, backend="eager")
    compiled(inputs)
    grown.compile(backend="eager")
    assert list(compiled.state_dict()) == names == list(grown.state_dict())
    fxgrow.save(grown, tmp_path / "grown.pt")
    assert list(fxgrow.load(tmp_path / "grown.pt", base=model).state_dict()) == names
    spread = find_pass("spread-residual-edges")()(grown).graph_module
    assert [name for name in spread.state_dict() if ".spread_0." not in name] == names


def test_growing_once_more_adds_names_and_changes_none(grown, inputs) -> None:
    targets = torch.arange(len(inputs))
    scores = fxgrow.analyze(grown, torch.nn.functional.cross_entropy, [(inputs, targets)], score="random")
    more = fxgrow.grow(grown, scores, budget=0.1, operator="gated")
    names = list(grown.state_dict())
    assert [name for name in more.state_dict() if name in names] == names
    assert len(more.state_dict()) > len(names)

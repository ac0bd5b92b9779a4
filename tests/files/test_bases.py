import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import FileError
from fxgrow.files.origins import create_timm_model
from fxgrow.passes import parse
from fxgrow.record.record import Origin, update_record
from fxgrow.testing import random_scores


def test_a_file_without_origin_asks_for_its_base(saved):
    with pytest.raises(FileError, match="does not say where its base model comes from; give the model that was traced"):
        fxgrow.load(saved)


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 4)),
        nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 3)),
        nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)),
    ],
    ids=["other head", "fewer layers", "other activation"],
)
def test_another_model_is_refused_as_base(saved, other):
    with pytest.raises(
        FileError, match=r"the base is another model than the one that was traced: .*; give the model"
    ) as caught:
        fxgrow.load(saved, base=other)
    assert str(saved) in str(caught.value)


def normed(eps=1e-5, p=0.1, activation=nn.GELU, classes=3, norm=nn.LayerNorm):
    return nn.Sequential(nn.Linear(6, 8), norm(8, eps=eps), activation(), nn.Dropout(p), nn.Linear(8, classes))


@pytest.mark.parametrize(
    ("surgery", "message"),
    [
        ({"eps": 1e-3}, r"1 is LayerNorm\(\(8,\), eps=0.001.* in the file, and LayerNorm\(\(8,\), eps=1e-05"),
        ({"p": 0.5}, r"3 is Dropout\(p=0.5.* in the file, and Dropout\(p=0.1"),
        ({"activation": nn.SiLU}, r"2 is SiLU\(\) in the file, and GELU\("),
        ({"classes": 5}, r"4 is Linear\(.*out_features=5.* in the file, and Linear\(.*out_features=3"),
        ({"norm": nn.BatchNorm1d}, r"1 is BatchNorm1d\(.* in the file, and LayerNorm\("),
        ({"norm": nn.SyncBatchNorm}, r"1 is SyncBatchNorm\(.* in the file, and LayerNorm\("),
    ],
    ids=["eps", "dropout", "activation", "head", "norm", "synchronised norm"],
)
@pytest.mark.parametrize("grown", [False, True])
def test_surgery_by_hand_is_named_and_a_base_with_the_same_surgery_is_taken(surgery, message, grown, tmp_path):
    x = torch.linspace(-1, 1, 24).reshape(4, 6)
    traced = fxgrow.trace(normed(), x)
    traced = parse('insert-pseudo-layers{rows={"0":[1]}}')(traced).graph_module if grown else traced
    changed = normed(**surgery)
    for name, module in changed.named_children():
        setattr(traced, name, module)
    fxgrow.save(traced, tmp_path / "changed.pt")
    with pytest.raises(FileError, match=f"{message}.*; (give the model as it was|make the same change).*base="):
        fxgrow.load(tmp_path / "changed.pt", base=normed())
    again = fxgrow.load(tmp_path / "changed.pt", base=normed(**surgery))
    assert torch.equal(again.eval()(x), traced.eval()(x))


def convolutions(**options):
    first = nn.Conv2d(2, 4, 3, padding=1)
    return nn.Sequential(first, nn.GELU(), nn.Conv2d(4, 4, 3, **{"padding": 1, **options}), nn.Flatten(2))


@pytest.mark.parametrize(
    ("attribute", "value", "shown"),
    [("padding", (0, 0), r"stride=\(1, 1\)\)"), ("stride", (2, 2), r"stride=\(2, 2\)"), ("groups", 2, "groups=2")],
)
@pytest.mark.parametrize("grown", [False, True])
def test_how_a_convolution_runs_is_named_where_it_was_changed_in_place(attribute, value, shown, grown, tmp_path):
    x = torch.linspace(-1, 1, 200).reshape(2, 2, 5, 10)
    traced = fxgrow.trace(convolutions(), x)
    traced = parse('insert-pseudo-layers{rows={"0":[1]}}')(traced).graph_module if grown else traced
    setattr(traced.get_submodule("2"), attribute, value)
    if attribute == "groups":
        traced.get_submodule("2").weight = nn.Parameter(torch.ones(4, 2, 3, 3))
    fxgrow.save(traced, tmp_path / "changed.pt")
    with pytest.raises(FileError, match=f"2 is Conv2d.*{shown}.* in the file, and Conv2d.* here; .*base="):
        fxgrow.load(tmp_path / "changed.pt", base=convolutions())
    again = fxgrow.load(tmp_path / "changed.pt", base=convolutions(**{attribute: value}))
    assert torch.equal(again(x), traced(x))


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize(
    ("place", "new"),
    [
        ("2", Swish),
        ("2", lambda: nn.Sequential(nn.SiLU(), nn.Dropout(0.2))),
        ("4", lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 5))),
    ],
    ids=["activation of one's own", "two modules", "head"],
)
def test_a_module_of_several_that_was_put_in_place_of_one_comes_back_whole(place, new, grown, tmp_path):
    x = torch.linspace(-1, 1, 24).reshape(4, 6)
    traced = fxgrow.trace(normed(), x)
    traced = parse('insert-pseudo-layers{rows={"0":[1]}}')(traced).graph_module if grown else traced
    base = normed()
    for model in (traced, base):
        setattr(model, place, new())
    fxgrow.save(traced, tmp_path / "changed.pt")
    again = fxgrow.load(tmp_path / "changed.pt", base=base)
    assert torch.equal(again.eval()(x), traced.eval()(x))
    with pytest.raises(FileError, match=f"{place} is .* in the file, and .* here; .*base="):
        fxgrow.load(tmp_path / "changed.pt", base=normed())


def test_a_base_that_does_not_take_the_inputs_is_refused(saved):
    with pytest.raises(FileError, match=r"its base cannot be traced .*give the model that was traced"):
        fxgrow.load(saved, base=nn.Conv2d(3, 3, 3))


def test_an_edit_log_that_cannot_be_replayed_names_the_versions(grown, tmp_path, mlp):
    from fxgrow.record.record import record_of

    edits = tuple(edit.replace("serial", "of-the-future") for edit in record_of(grown).edits)
    update_record(grown, edits=edits)
    fxgrow.save(grown, tmp_path / "x.pt", check=False)
    with pytest.raises(FileError, match=r"its edit log cannot be replayed \(.*of-the-future.*\); use the versions"):
        fxgrow.load(tmp_path / "x.pt", base=mlp)


def test_an_unknown_timm_name_gets_close_matches():
    with pytest.raises(FileError, match=r"has no model 'resnet5O'; did you mean .*resnet50"):
        create_timm_model("resnet5O", {}, where="x.pt")


@pytest.mark.parametrize("name", ["hf-hub:somebody/model", "hf_hub:somebody/model", "local-dir:/tmp"])
def test_a_name_that_leads_out_of_the_registry_is_refused(grown, tmp_path, name):
    update_record(grown, origin=Origin("timm", name))
    fxgrow.save(grown, tmp_path / "x.pt", check=False)
    with pytest.raises(FileError, match="has no model"):
        fxgrow.load(tmp_path / "x.pt")


@pytest.mark.parametrize("argument", ["pretrained", "checkpoint_path", "pretrained_cfg_overlay"])
def test_a_file_may_not_ask_for_other_files(grown, tmp_path, argument):
    update_record(grown, origin=Origin("timm", "resnet10t", {argument: "/etc/passwd"}))
    fxgrow.save(grown, tmp_path / "x.pt", check=False)
    with pytest.raises(FileError, match=f"the argument {argument} reads other files"):
        fxgrow.load(tmp_path / "x.pt")


def test_arguments_that_timm_refuses_are_shown():
    with pytest.raises(FileError, match=r"timm cannot build resnet10t with wings=2 \(.*\); check the arguments"):
        create_timm_model("resnet10t", {"wings": 2}, where="x.pt")


def test_an_unknown_source_is_named(grown, tmp_path):
    update_record(grown, origin=Origin("zoo", "zebra"))
    fxgrow.save(grown, tmp_path / "x.pt", check=False)
    with pytest.raises(FileError, match="zoo:zebra, an unknown source"):
        fxgrow.load(tmp_path / "x.pt")


def test_the_global_random_state_is_untouched_by_loading_onto_a_base(saved, mlp):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fxgrow.load(saved, base=mlp)
    assert torch.equal(torch.rand(3), expected)


class InFloat32(nn.Module):
    """A norm that computes in float32 whatever it is given."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def forward(self, x):
        return self.norm(x.float()).to(x.dtype)


class Phase(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.weight).abs()


def mixed(middle, dtype):
    model = nn.Sequential(nn.Linear(6, 12), middle(), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 3))
    for index in (0, 2, 4):
        model[index].to(dtype)
    return model


@pytest.mark.parametrize(("middle", "dtype"), [(InFloat32, torch.bfloat16), (InFloat32, torch.float64), (Phase, None)])
def test_a_model_of_several_dtypes_comes_back_whatever_dtypes_its_base_has(middle, dtype, tmp_path):
    inputs = torch.ones(4, 6, dtype=dtype)
    traced = fxgrow.trace(mixed(middle, dtype), inputs)
    grown = fxgrow.grow(traced, random_scores(traced), budget=0.2).eval()
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(0.1)
    fxgrow.save(grown, tmp_path / "model.pt")
    for base in (mixed(middle, dtype), mixed(middle, None)):
        again = fxgrow.load(tmp_path / "model.pt", base=base)
        assert torch.equal(again(inputs), grown(inputs))
        assert [p.dtype for p in again.parameters()] == [p.dtype for p in grown.parameters()]

"""Weights as strangers have them: told by what is in the file, with a line for every decision, or refused."""

import re
import zipfile

import numpy as np
import pytest
import torch
from checkpoints import (
    body,
    deit3,
    dino,
    dinov2,
    dinov2_training,
    fix_positions,
    mae,
    mae_full,
    mocov3,
    mocov3_linear,
    npz_arrays,
)
from safetensors.torch import save_file

from mosa.backbones.build import build_backbone
from mosa.backbones.kinds import IMAGENET, INCEPTION
from mosa.backbones.weights import load_weights
from mosa.base.errors import UserError
from mosa.base.timm import timm

VIT = "test_vit"  # timm's smallest plain ViT; its own weights were trained with 0.5


@pytest.fixture
def vit():
    torch.manual_seed(3)
    model = timm.create_model(VIT, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return model


def saved(content, folder, name="x.pth"):
    torch.save(content, folder / name)
    return folder / name


def loaded(path, architecture=VIT, **options):
    return build_backbone(architecture, str(path), 3, **options)


def arrived(model, source):
    own = source.state_dict()
    return all(torch.equal(v, own[n]) for n, v in model.state_dict().items() if not n.startswith("head."))


def refused(path, architecture=VIT, **options):
    """The error for a file; it gives no advice of torch's or numpy's, and lists few names."""
    with pytest.raises(UserError) as error:
        loaded(path, architecture, **options)
    text = str(error.value)
    for advice in ("weights_only", "allow_pickle", "will likely succeed", "Traceback"):
        assert advice not in text, text
    assert len(text) < 1500 and len(text.splitlines()) <= 7, text
    return text


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "module", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.", "encoder.trunk."])
def test_a_vit_of_anybody_is_of_the_same_kind_in_any_wrapper(wrapper, prefix, vit, tmp_path):
    state = {prefix + name: value for name, value in vit.state_dict().items()}
    path = saved({wrapper: state, "epoch": 3} if wrapper else state, tmp_path)
    model, backbone = loaded(path)
    assert arrived(model, vit) and backbone.kind == "timm"
    assert (backbone.mean, backbone.std) == INCEPTION  # as timm says for the architecture
    assert "does not say how its images were normalised" in backbone.guess
    assert [prefix in note for note in backbone.notes] == ([True] if prefix else [])


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "teacher"])
def test_a_bare_vit_is_normalised_as_dinos_published_files_and_marked(wrapper, vit, tmp_path):
    state = body(vit)
    path = saved({wrapper: state} if wrapper else state, tmp_path)
    _, backbone = loaded(path)
    assert (backbone.kind, backbone.mean) == ("timm", IMAGENET[0]) and "DINO" in backbone.guess
    for kind, statistics in (("dino", IMAGENET), ("mae", IMAGENET), ("timm", INCEPTION)):
        _, backbone = loaded(path, kind=kind)
        assert (backbone.kind, (backbone.mean, backbone.std)) == (kind, statistics)
        assert (backbone.guess is None) == (kind != "timm")


@pytest.mark.parametrize(
    ("name", "statistics"),
    [("imagenet", IMAGENET), ("inception", INCEPTION), ("none", ((0.0,) * 3, (1.0,) * 3))],
)
def test_a_config_can_set_the_statistics_and_then_nothing_is_guessed(name, statistics, vit, tmp_path):
    _, backbone = loaded(saved(body(vit), tmp_path), normalization=name)
    assert (backbone.mean, backbone.std) == statistics and backbone.guess is None


@pytest.mark.parametrize(
    ("write", "first", "kind"),
    [
        (mae, "columns", "mae"),
        (lambda model: body(model), "columns", "mae"),
        (mae_full, None, "mae"),
        (mocov3, None, "mocov3"),
        (mocov3_linear, "rows", "mocov3"),
        (mocov3_linear, None, "timm"),
        (mae, None, "timm"),
        (dino, None, "dino"),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_kinds_are_told_by_names_and_values(write, first, kind, half, vit, tmp_path):
    if first:
        fix_positions(vit, first)
    vit = vit.half().float() if half else vit
    model, backbone = loaded(saved(write(vit.half() if half else vit), tmp_path))
    assert backbone.kind == kind and arrived(model, vit)
    assert (backbone.guess is None) == (kind != "timm")
    assert backbone.mean == IMAGENET[0] or kind == "timm"


@pytest.mark.parametrize(
    ("architecture", "write", "kind"),
    [
        ("deit3_small_patch16_224", deit3, "deit3"),
        ("vit_small_patch14_dinov2", dinov2, "dinov2"),
        ("vit_small_patch14_dinov2", dinov2_training, "dinov2"),
    ],
)
def test_files_with_layer_scales(architecture, write, kind, tmp_path):
    source = timm.create_model(architecture, num_classes=4)
    with torch.no_grad():
        source.blocks[1].ls2.gamma += torch.rand(384)
    model, backbone = loaded(saved(write(source), tmp_path), architecture)
    assert arrived(model, source) and (backbone.kind, backbone.guess) == (kind, None)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_convnexts_original_names_are_found_too(prefix, tmp_path):
    source = timm.create_model("test_convnext", num_classes=4)
    names = {
        "stem.": "downsample_layers.0.",
        ".blocks.": ".",
        "conv_dw": "dwconv",
        "mlp.fc": "pwconv",
        "head.norm": "norm",
        "head.fc": "head",
    }
    state = {}
    for name, value in source.state_dict().items():
        for new, old in names.items():
            name = name.replace(new, old)
        state[prefix + re.sub(r"stages.(.).downsample", r"downsample_layers.\1", name)] = value
    model, backbone = loaded(saved({"model": state}, tmp_path), "test_convnext")
    assert all(
        torch.equal(v, source.state_dict()[n]) for n, v in model.state_dict().items() if "head.fc" not in n
    )
    assert len(backbone.notes) == bool(prefix)


@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema", "teacher"])
def test_of_two_sets_of_weights_the_evaluated_one_is_taken_and_named(average, vit, tmp_path):
    other = {"model_ema": "model", "state_dict_ema": "state_dict", "teacher": "student"}[average]
    content = {other: {n: v + 1 for n, v in vit.state_dict().items()}, average: vit.state_dict()}
    model, backbone = loaded(saved(content, tmp_path))
    assert arrived(model, vit)
    (note,) = backbone.notes
    assert note == f"of 2 sets of weights ({other}, {average}), {average} was taken"
    model, backbone = loaded(saved({average: vit.state_dict(), other: None}, tmp_path))
    assert arrived(model, vit) and not backbone.notes


def test_a_set_of_weights_under_a_telling_key_is_named(vit, tmp_path):
    _, backbone = loaded(saved({"student": body(vit), "epoch": 3}, tmp_path))
    assert backbone.notes == ("the weights are those under 'student'",)
    assert not loaded(saved({"model": body(vit)}, tmp_path))[1].notes


def test_two_sets_of_weights_without_a_preference_are_refused(vit, tmp_path):
    text = refused(saved({"first": body(vit), "second": {"net": body(vit)}}, tmp_path))
    assert "holds 2 sets of weights" in text and "(first, second.net)" in text


def test_what_is_beside_the_prefix_is_named(vit, tmp_path):
    state = {f"backbone.{name}": value for name, value in body(vit).items()}
    state |= {"projector.0.weight": torch.zeros(3), "projector.0.bias": torch.zeros(3)}
    _, backbone = loaded(saved({"state_dict": state}, tmp_path))
    assert backbone.notes == (
        "the prefix 'backbone.' was taken off the names",
        "left out: 2 tensors without that prefix, such as 'projector.0.weight'",
    )


def test_a_kind_that_the_file_contradicts_is_refused(vit, tmp_path):
    assert "is of kind 'mocov3' by what it holds, not 'mae'" in refused(
        saved(mocov3(vit), tmp_path), kind="mae"
    )
    fix_positions(vit, "columns")
    np.savez(tmp_path / "ViT.npz", **npz_arrays(vit))
    assert "is an npz file, not of kind 'mae'; set `kind: npz`" in refused(tmp_path / "ViT.npz", kind="mae")
    assert "is of kind 'mae'" in refused(saved(mae(vit), tmp_path), kind="dino")


@pytest.mark.parametrize("write", [mocov3, mocov3_linear])
def test_heads_that_no_shape_tells_are_compared(write, tmp_path):
    small = {"depth": 1, "num_classes": 3}
    vit = fix_positions(timm.create_model("vit_small_patch16_224", num_heads=12, **small), "rows")
    path, other = saved(write(vit), tmp_path), timm.create_model("vit_small_patch16_224", **small)
    with pytest.raises(UserError, match="has 12 heads of attention, the architecture has others: every"):
        load_weights(other, path)
    load_weights(other, path, "timm")
    load_weights(vit, path)


def changed(value):
    return lambda state: state | {"blocks.0.attn.proj.weight": value}


WEIGHT = torch.rand(64, 64)
WRONG = {
    "int8": (changed(WEIGHT.to(torch.int8)), "has values of type int8, expected float32"),
    "bool": (changed(WEIGHT > 0.5), "has values of type bool, expected float32"),
    "complex": (changed(WEIGHT.to(torch.complex64)), "has values of type complex64, expected float32"),
    "float8": (changed(WEIGHT.to(torch.float8_e4m3fn)), "has values of type float8_e4m3fn, expected float32"),
    "sparse": (changed(WEIGHT.to_sparse()), "is a sparse tensor"),
    "meta": (changed(WEIGHT.to("meta")), "has a shape but no values"),
    "repeated": (changed(torch.zeros(1).expand(64, 64)), "repeats fewer values than its shape has"),
    "too large for float32": (changed(WEIGHT.double() * 1e300), "has values that are not finite"),
    "not a number": (changed(WEIGHT * float("nan")), "has values that are not finite"),
    "an integer as a name": (lambda state: state | {7: WEIGHT}, "7  not in the model"),
    "a sparse position": (
        lambda state: state | {"pos_embed": state["pos_embed"].to_sparse()}, "pos_embed  is a sparse tensor"
    ),
    "positions of int8": (
        lambda state: state | {"pos_embed": torch.zeros(1, 197, 64, dtype=torch.int8)}, "pos_embed "
    ),
    "positions of no grid": (lambda state: state | {"pos_embed": torch.zeros(1, 98, 64)}, "pos_embed "),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_copied_is_refused_by_name(name, vit, tmp_path):
    change, words = WRONG[name]
    text = refused(saved(change(body(vit)), tmp_path))
    assert words in text
    if "finite" in words:
        assert "take the architecture" not in text and "copy the file again" in text


def test_only_integers_as_names(vit, tmp_path):
    text = refused(saved(dict(enumerate(body(vit).values())), tmp_path))
    assert "holds 0, 1, 2, 3, 4 ..." in text


def test_precisions_are_converted(vit, tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        path = saved({name: value.to(dtype) for name, value in body(vit).items()}, tmp_path)
        model, _ = loaded(path)
        assert torch.equal(model.norm.weight, vit.norm.weight.to(dtype).float())


class Stranger:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_reasons_are_our_own(vit, tmp_path):
    text = refused(saved({"model": body(vit), "config": Stranger()}, tmp_path))
    assert "also holds objects of " in text and "save its dictionary of weights alone" in text
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    assert "TorchScript" in refused(tmp_path / "script.pt")
    np.savez(tmp_path / "o.npz", **{"embedding/kernel": np.array([{}], dtype=object)})
    assert "holds objects of Python" in refused(tmp_path / "o.npz")
    assert "is a folder" in refused(tmp_path)


def test_an_unreadable_file_is_named(vit, tmp_path, monkeypatch):
    path = saved(body(vit), tmp_path)

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert f"{path}: cannot be read (Permission denied)" in refused(path)


def test_a_file_that_was_zipped_again_arrives(vit, tmp_path):
    path = saved(body(vit), tmp_path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    model, _ = loaded(tmp_path / "y.pth")
    assert arrived(model, vit)


def test_formats_are_told_by_content(vit, tmp_path):
    np.savez(tmp_path / "ViT.npz", **npz_arrays(vit))
    (tmp_path / "ViT.npz").rename(tmp_path / "weights.bin")
    model, backbone = loaded(tmp_path / "weights.bin")
    assert backbone.kind == "npz" and arrived(model, vit)
    save_file(body(vit), tmp_path / "pytorch_model.bin")
    assert arrived(loaded(tmp_path / "pytorch_model.bin")[0], vit)


NPZ = {
    "an array more": (lambda a: a | {"extra/kernel": np.zeros(3, np.float32)}, "extra/kernel  not in the mo"),
    "int8": (lambda a: a | {"cls": a["cls"].astype(np.int8)}, "cls  has values of type int8, expected"),
    "complex": (lambda a: a | {"cls": a["cls"].astype(np.complex64)}, "has values of type complex64"),
    "a value for all": (
        lambda a: a | {"Transformer/encoder_norm/bias": np.zeros(1, np.float32)}, "shape (1,), expected (64,)"
    ),
    "infinity": (lambda a: a | {"cls": a["cls"] + np.inf}, "cls  has values that are not finite"),
    "more than float32 has": (lambda a: a | {"cls": a["cls"].astype(float) + 1e300}, "cls  has values th"),
    "positions of no grid": (
        lambda a: a | {"Transformer/posembed_input/pos_embedding": np.zeros((1, 98, 64), np.float32)},
        "shape (1, 98, 64), expected (1, 82, 64)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NPZ)
def test_arrays_that_do_not_fit_are_refused_by_name(name, vit, tmp_path):
    change, words = NPZ[name]
    np.savez(tmp_path / "x.npz", **change(npz_arrays(vit)))
    assert words in refused(tmp_path / "x.npz")


def test_the_size_of_an_array_is_looked_at_before_it_is_read(vit, tmp_path):
    """A header that promises terabytes costs nothing."""
    np.savez(tmp_path / "x.npz", **npz_arrays(vit))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive, archive.open("huge.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, header)
    assert "huge  not in the model" in refused(tmp_path / "x.npz")


def test_a_model_with_more_than_the_npz_file_has_is_refused(vit, tmp_path):
    np.savez(tmp_path / "x.npz", **npz_arrays(vit))
    text = refused(tmp_path / "x.npz", "test_vit2")
    assert "x.npz" in text


@pytest.mark.parametrize(
    ("architecture", "words"),
    [
        ("vit_small_patch16_224.dino", "set `architecture: vit_small_patch16_224` and `weights: hub:dino`"),
        ("timm/vit_small_patch16_224.dino", "set `architecture: vit_small_patch16_224` and `weights: hub"),
        ("vit_small_patch16_224.dinno", "unknown tag 'dinno' of vit_small_patch16_224"),
        ("vit_base_patch16_224_in21k", "former name of timm's; set `architecture: vit_base_patch16_224` an"),
        ("google/vit-base-patch16-224", "did you mean 'vit_base_patch16_224'?"),
        ("deit_base", "did you mean 'deit_base_patch16_224'?"),
        ("mae_vit_base_patch16", "such as vit_base_patch16_224 (timm.list_models() has all)"),
    ],
)  # fmt: skip
def test_names_of_architectures(architecture, words):
    with pytest.raises(UserError) as error:
        loaded("random", architecture)
    text = str(error.value)
    assert words in text and len(text) < 300
    assert "did you mean" in words or "did you mean" not in text or "dinno" in architecture


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("hub:vit_small_patch16_224.dino", "expected the tag alone; set `weights: hub:dino`"),
        ("hub:dinno", "unknown tag 'dinno' of vit_small_patch16_224.*did you mean 'dino'"),
        ("hub:", "unknown tag '' of vit_small_patch16_224"),
        ("dino", "dino: no such file.*did you mean 'hub:dino'"),
        ("bultin", "did you mean 'builtin'"),
    ],
)
def test_names_of_weights(weights, words):
    with pytest.raises(UserError, match=words):
        loaded(weights, "vit_small_patch16_224")
    with pytest.raises(UserError, match="mosa_vit_micro has no published weights"):
        loaded("hub:dino", "mosa_vit_micro")

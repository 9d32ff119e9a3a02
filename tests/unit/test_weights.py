"""Every format of a checkpoint arrives whole, value by value, or is refused with the reason."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch
from checkpoints import body, fix_positions, mae, mae_full, mocov3, mocov3_linear, npz_arrays, swin
from safetensors.torch import save_file

from mosa.backbones.build import IMAGENET, INCEPTION, build_backbone
from mosa.backbones.weights import head_names
from mosa.base.errors import UserError
from mosa.base.timm import timm
from mosa.peft.structure import copied

VIT, SWIN, CONVNEXT = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"


@pytest.fixture(scope="module", params=[VIT, SWIN, CONVNEXT])
def any_model(request):
    return made(request.param)


def made(architecture, **options):
    """A model with values that no initialisation would give."""
    return copied(_made(architecture, **options))


@cache
def _made(architecture, **options):
    torch.manual_seed(3)
    model = timm.create_model(architecture, num_classes=5, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return model


@pytest.fixture(scope="module")
def vit():
    return made(VIT)


FORMATS = {
    "npz": (VIT, "npz", INCEPTION),
    "mae": (VIT, "mae", IMAGENET),
    "mae_full": (VIT, "mae", IMAGENET),
    "mocov3": (VIT, "mocov3", IMAGENET),
    "mocov3_linear": (VIT, "mocov3", IMAGENET),
    "swin": (SWIN, "swin", IMAGENET),
    "timm": (SWIN, "timm", IMAGENET),
}
FIRST_AXIS = {"mae": "columns", "mocov3": "rows"}  # of the position embeddings, which are not trained
WRITERS = {f.__name__: f for f in (mae, mae_full, mocov3, mocov3_linear, swin)}


def write(name, model, folder):
    if name == "npz":
        path = folder / "ViT.npz"
        np.savez(path, **npz_arrays(model))
    elif name == "timm":
        path = folder / "timm.safetensors"
        save_file(body(model), path)
    else:
        path = folder / f"{name}.pth"
        torch.save(WRITERS[name](model), path)
    return path


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ["auto", "named"])
def test_every_format_arrives_value_by_value(name, how, tmp_path):
    architecture, kind, normalization = FORMATS[name]
    source = made(architecture)
    if how == "auto" and kind in FIRST_AXIS:
        fix_positions(source, FIRST_AXIS[kind])
    path = write(name, source, tmp_path)
    model, backbone = build_backbone(architecture, str(path), 7, kind="auto" if how == "auto" else kind)
    own, head = source.state_dict(), head_names(source)
    for tensor, value in model.state_dict().items():
        if tensor not in head:
            assert torch.equal(value, own[tensor]), tensor
    assert backbone.kind == kind and (backbone.mean, backbone.std) == normalization
    assert model.get_classifier().out_features == 7


def test_a_state_dict_of_any_family_arrives(any_model, tmp_path):
    torch.save(any_model.state_dict(), tmp_path / "state.pth")
    architecture = any_model.pretrained_cfg["architecture"]
    model, backbone = build_backbone(architecture, str(tmp_path / "state.pth"), 3)
    own, head = any_model.state_dict(), head_names(any_model)
    assert backbone.kind == "timm"
    assert all(torch.equal(v, own[n]) for n, v in model.state_dict().items() if n not in head)


@pytest.mark.parametrize("name", ["npz", "mae"])
def test_position_embeddings_are_resized_and_nothing_else(name, vit, tmp_path):
    path = write(name, vit, tmp_path)
    model, backbone = build_backbone(VIT, str(path), 3, image_size=160)
    assert backbone.image_size == 160 and model.pos_embed.shape == (1, 101, 192)
    assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 3)
    torch.testing.assert_close(model.pos_embed[:, 0], vit.pos_embed[:, 0])  # the class token's is kept
    torch.testing.assert_close(model.pos_embed[:, 1:].mean(), vit.pos_embed[:, 1:].mean(), atol=1e-3, rtol=0)
    assert torch.equal(model.blocks[3].attn.qkv.weight, vit.blocks[3].attn.qkv.weight)


def test_swins_bias_tables_are_resized(tmp_path):
    path = write("swin", made(SWIN), tmp_path)
    model, _ = build_backbone(SWIN, str(path), 3, image_size=256)
    assert model(torch.zeros(1, 3, 256, 256)).shape == (1, 3)


def test_average_pooling_may_lack_its_new_norm(vit, tmp_path, monkeypatch):
    path = write("mae", vit, tmp_path)
    original = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *a, **k: original(*a, **k, global_pool="avg", class_token=True)
    )
    model, _ = build_backbone(VIT, str(path), 3)
    assert torch.equal(model.fc_norm.weight, torch.ones(192))
    assert torch.equal(model.blocks[0].norm1.weight, vit.blocks[0].norm1.weight)


BROKEN = {
    "half of the blocks": (lambda s: {k: v for k, v in s.items() if "blocks.6" not in k}, "12 of .*missing"),
    "names of another library": (
        lambda s: {f"layer{i}.weight": v for i, v in enumerate(s.values())}, "0 of the 150 n.*layer4.weight"
    ),
    "not a number": (lambda s: s | {"norm.weight": torch.full((192,), float("nan"))}, "norm.weight +has va"),
    "another width": (lambda s: s | {"norm.bias": torch.zeros(7)}, r"norm.bias +shape \(7,\), exp"),
    "one block more": (lambda s: s | {"blocks.12.norm1.bias": torch.zeros(192)}, "blocks.12.* +not in"),
    "no tensors": (lambda s: {"epoch": 3}, "holds no weights of a backbone"),
    "other patches": (
        lambda s: s | {"patch_embed.proj.weight": torch.zeros(192, 3, 14, 14)}, "patches of 14x14 pixels"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_would_load_half_or_nothing_is_refused(name, wrapped, vit, tmp_path):
    change, words = BROKEN[name]
    state = change(body(vit))
    torch.save({"model": state} if wrapped else state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=f"(?s)x.pth.*{words}"):
        build_backbone(VIT, str(tmp_path / "x.pth"), 3)


def test_the_table_names_the_keys_and_does_not_flood(vit, tmp_path):
    half = {k: v for k, v in body(vit).items() if not k.startswith(("blocks.6.", "blocks.7."))}
    torch.save(half, tmp_path / "x.pth")
    with pytest.raises(UserError) as error:
        build_backbone(VIT, str(tmp_path / "x.pth"), 3)
    lines = str(error.value).splitlines()
    assert len(lines) == 7 and lines[-1] == "  ... and 19 more"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("Transformer/encoderblock_5/LayerNorm_2/bias"), "encoderblock_5/LayerNorm_2/bias"),
        (lambda a: [a.pop(k) for k in list(a) if "encoderblock_11" in k], "11 blocks, the architecture"),
        (lambda a: a.update({"cls": a["cls"] * np.nan}), r"cls +has values that are not finite"),
        (lambda a: a.update({"embedding/kernel": np.zeros((32, 32, 3, 192), np.float32)}), "32x32"),
        (lambda a: a.pop("embedding/kernel"), "expected an original ViT file"),
    ],
)  # fmt: skip
def test_a_broken_npz_is_refused(change, words, vit, tmp_path):
    arrays = npz_arrays(vit)
    change(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=f"(?s)x.npz.*{words}"):
        build_backbone(VIT, str(tmp_path / "x.npz"), 3)


class Hostile:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_no_file_runs_code(vit, tmp_path, capsys):
    torch.save({"model": Hostile()}, tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps(Hostile()))
    np.savez(tmp_path / "z.npz", **{"embedding/kernel": np.array([Hostile()], dtype=object)})
    for name in ("x.pth", "y.pth", "z.npz"):
        with pytest.raises(UserError, match=f"{name}: cannot be read as"):
            build_backbone(VIT, str(tmp_path / name), 3)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x.npz", "x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100])
def test_unreadable_files(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        build_backbone(VIT, str(tmp_path / name), 3)


def test_a_truncated_file_is_refused(vit, tmp_path):
    for name in ("npz", "mae", "timm"):
        path = write(name, vit, tmp_path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match="cannot be read"):
            build_backbone(VIT, str(path), 3)


def test_a_tag_that_is_not_there_offline_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"cannot be downloaded.*model.safetensors of timm/vit_base_patch16_224.mae"
    ):
        build_backbone("vit_base_patch16_224", "hub:mae", 3)
    with pytest.raises(UserError, match=r"unknown tag 'maee' of vit_base_patch16_224.*did you mean 'mae'"):
        build_backbone("vit_base_patch16_224", "hub:maee", 3)


def test_normalisation_may_be_named_and_rates_are_our_own():
    _, backbone = build_backbone(VIT, "random", 3, normalization="imagenet")
    assert (backbone.mean, backbone.std) == IMAGENET and backbone.kind is None
    _, backbone = build_backbone(SWIN, "random", 3)
    assert backbone.mean == IMAGENET[0]
    model, _ = build_backbone(SWIN, "random", 3)  # timm's own default is 0.1
    assert not [m for m in model.modules() if getattr(m, "drop_prob", 0)]
    for architecture in ("nest_tiny", "nextvit_small", "rexnet_100"):  # 0.5, 0.1; and dropout of 0.2
        model, _ = build_backbone(architecture, "random", 3)
        assert not [m for m in model.modules() if getattr(m, "drop_prob", 0) or getattr(m, "drop_rate", 0)]
        assert not [m for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p]
    model, _ = build_backbone(VIT, "random", 3, drop_path=0.2, drop_rate=0.1)
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    assert model.pos_drop.p == model.blocks[0].mlp.drop1.p == model.blocks[0].attn.proj_drop.p == 0.1
    assert model.head_drop.p == 0
    for architecture in (VIT, SWIN):
        model, _ = build_backbone(architecture, "random", 3, drop_rate=0.1, attention_drop_rate=0.0)
        attentions = [module.attn for module in model.modules() if hasattr(module, "attn")]
        assert attentions and all(attention.proj_drop.p == 0 for attention in attentions)
        assert {m.p for m in model.modules() if type(m) is torch.nn.Dropout} >= {0.1}
    with pytest.raises(UserError, match="attention_drop_rate=0: ConvNeXt has no attention"):
        build_backbone(CONVNEXT, "random", 3, attention_drop_rate=0.0)
    with pytest.raises(UserError, match="attention_drop_rate=0: Hiera has attention whose output has no"):
        build_backbone("hiera_tiny_224", "random", 3, attention_drop_rate=0.0)
    with pytest.raises(UserError, match="'convnext_atto' cannot be built with"):
        build_backbone(CONVNEXT, "random", 3, drop_rate=0.1)

"""Each misuse of the library gets one clear sentence, and leaves the model as it was."""

import pytest
import torch
from models import SMALL, attach, batch, build
from torch import nn

from mosa import peft
from mosa.backbones.build import build_backbone
from mosa.base.errors import UserError
from mosa.base.timm import timm
from mosa.peft.methods.lst import Lst
from mosa.peft.side import Side

COUNT = len(peft.list_methods())


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (
            "mossa",
            {},
            ["unknown method 'mossa'", f"({len(peft.list_methods())} in all)", "did you mean 'mosa'"],
        ),
        ("mosa", {"expert": 2}, ["unknown option 'expert' of method 'mosa'", "did you mean 'experts'"]),
        ("linear", {"bottleneck": 4}, ["unknown option 'bottleneck' of method 'linear'"]),
        ("adapter", {"bottleneck": 0}, ["'bottleneck'", "greater than or equal to 1", "got 0"]),
        ("adapter", {"bottleneck": "8"}, ["'bottleneck'", "integer", "got '8'"]),
        ("mosa", {"scale": 0.0, "learn_scale": True}, ["scale: 0 leaves the backbone as it is"]),
        ("lora", {"scale": 0.0}, ["scale: 0 leaves the backbone as it is", "take another"]),
        ("adapter", {"dropout": 1.0}, ["'dropout'", "less than 1", "got 1.0"]),
        ("adapter", {"activation": "tanh"}, ["'activation'", "'gelu', 'relu' or 'silu'", "got 'tanh'"]),
        ("mosa", {"experts": 0}, ["'experts'", "greater than or equal to 1", "got 0"]),
        ("mosa", {"experts": 300}, ["'experts'", "less than or equal to 256", "got 300"]),
        ("mosa", {"experts": 40, "bottleneck": 1}, ["experts=40", "expected 1 to 32", "32x1"]),
        ("mosa", {"split": "left"}, ["'split'", "'up', 'down' or 'both'", "got 'left'"]),
        ("lora", {"rank": 0}, ["'rank'", "greater than or equal to 1", "got 0"]),
        ("lora", {"targets": []}, ["'targets'", "at least 1 item"]),
        ("lora", {"targets": ["q", "x"]}, ["'targets.1'", "'fc1' or 'fc2'", "got 'x'"]),
        ("lora", {"targets": ["q", "q"]}, ["'targets'", "named twice"]),
        ("mosa", {"structure": "columns", "bottleneck": 2}, ["experts=4", "expected 1 to 2", "2 columns"]),
        ("mosa", {"structure": "rows", "split": "down", "bottleneck": 3}, ["experts=4", "3 rows"]),
        ("mosl", {"rank": 1, "experts": 40}, ["experts=40", "expected 1 to 32", "32x1"]),
        ("split", {"of": "lora", "split_bias": True}, ["split_bias=true", "have no biases to divide"]),
        ("adapter_plus", {"spread": 0.0}, ["'spread'", "greater than 0", "got 0.0"]),
        ("pruned", {"keep": 40, "bottleneck": 1}, ["keep=40", "32 entries"]),
        ("partial", {"blocks": 4}, ["blocks=4", "at most 3"]),
        ("repadapter", {"bottleneck": 6, "groups": 4}, ["groups=4", "divisor of the bottleneck 6"]),
        ("repadapter", {"bottleneck": 6, "groups": 3}, ["groups=3", "divisor of the width 32"]),
        ("dropconnect", {"rate": 1.0}, ["'rate'", "less than 1"]),
        ("lora", {"rank": 33}, ["rank=33", "at most 32"]),
    ],
)
def test_wrong_method_or_option(method, options, words):
    model = build()
    names = list(model.state_dict())
    with pytest.raises(UserError) as error:
        peft.attach(model, method, **options)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not hasattr(model, "peft") and list(model.state_dict()) == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    peft.attach(model, "linear")  # nothing is in the way of another try


@pytest.mark.parametrize("method", ["adapter", "lora", "mosa"])
def test_model_without_known_blocks(method):
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=3)
    with pytest.raises(UserError, match=r"ResNet has no block that this method understands.*'linear'"):
        peft.attach(model, method)


@pytest.mark.parametrize(
    ("method", "options", "reason"),
    [
        ("vpt", {"deep": False}, "deep=false: the prompts of SwinTransformer would have to pass the merging "
         "of patches; take deep=true"),
        ("adapter", {"bottleneck": 8}, None),
        ("partial", {"blocks": 4}, "blocks=4: expected at most 3, the depth of the model"),
        ("mosa", {"bottleneck": 1, "experts": 40}, "experts=40: expected 1 to 16, because the tensor of "
         "shape 16x1 has 16 entries to divide and the number of an expert is one byte"),
        ("lora", {"rank": 17}, "rank=17: expected at most 16, the width of the projection"),
    ],
)  # fmt: skip
def test_unfit_gives_the_reason_without_attaching(method, options, reason):
    model = build("swin")
    assert peft.build_method(method, **options).unfit(model) == reason
    assert not hasattr(model, "peft") and all(parameter.requires_grad for parameter in model.parameters())


def test_prompts_need_a_patch_embedding():
    """CrossViT has blocks of the right type, and two embeddings of patches."""
    with torch.device("meta"):
        model = timm.create_model("crossvit_tiny_240", num_classes=3)
    assert "CrossVit has no patch embedding" in peft.build_method("vpt").unfit(model)


def test_comparing_the_features_of_blocks_needs_blocks():
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=3)
    assert peft.build_method("linear").unfit(model) is None
    with pytest.raises(UserError, match="ResNet has no block"):
        peft.attach(model, "linear", feature_consistency=1.0)
    assert not hasattr(model, "peft")


@pytest.mark.parametrize("method", ["full", "linear"])
def test_methods_without_blocks_take_any_classifier(method):
    model = peft.attach(timm.create_model("resnet18", num_classes=3), method)
    assert peft.count_parameters(model).head == 3 * 513


def test_model_that_is_not_timms():
    with pytest.raises(UserError, match=r"Sequential has no get_classifier\(\)"):
        peft.attach(nn.Sequential(nn.Linear(2, 2)), "linear")


def test_attaching_twice():
    model = peft.attach(build(), "adapter", bottleneck=8)
    with pytest.raises(UserError, match="has 'adapter' attached already"):
        peft.attach(model, "lora")


def test_options_beside_a_method_that_is_built():
    model = build()
    with pytest.raises(UserError, match=r"^bottleneck, experts: the method 'mosa' is built already"):
        peft.attach(model, peft.build_method("mosa"), bottleneck=8, experts=2)
    assert not hasattr(model, "peft")
    assert peft.attach(model, peft.build_method("mosa", bottleneck=8)).peft.method.bottleneck == 8


def test_what_is_no_method():
    with pytest.raises(UserError, match="expected a name, such as 'mosa', or what build_method returns"):
        peft.attach(build(), peft.get_method("mosa"))


@pytest.mark.parametrize("method", peft.list_methods())
def test_a_model_without_values(method):
    model = build().to("meta")
    with (
        torch.device("meta"),
        pytest.raises(UserError, match="VisionTransformer is on the meta device, where tensors have no val"),
    ):
        attach(model, method, **SMALL.get(method, {}))
    assert not hasattr(model, "peft") and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("method", peft.list_methods())
def test_the_default_device_is_of_no_account(method):
    """The model says where everything is; the default is often a GPU, whose generators are others."""
    model = build()
    with torch.device("meta"):
        attach(model, method, **SMALL.get(method, {}), verify=True)
    expected = attach(build(), method, **SMALL.get(method, {}))
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_the_bridge_copies_no_weights(monkeypatch):
    model = build()
    own = {tensor.data_ptr() for tensor in model.parameters()}
    clone = torch.Tensor.__deepcopy__

    def refuse(tensor, memo):
        assert tensor.data_ptr() not in own
        return clone(tensor, memo)

    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", refuse)
    method = peft.build_method("peft")
    assert method.parameters(model) > 0
    peft.attach(model, method)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"r": 2, "inference_mode": True}}, "tunes nothing"),
        ({"config": {"r": 2, "modules_to_save": ["norm"]}}, "modules_to_save"),
        ({"type": "ADALORA", "config": {"total_step": 9}}, "type ADALORA .* a call after every step"),
        *(
            (
                {"config": {"init_lora_weights": start}},
                f"init_lora_weights='{start}' is computed from .*'gaussian'",
            )
            for start in ("pissa", "pissa_niter_4", "olora", "mica", "eva", "lora_ga")
        ),
        ({"type": "LOHA", "config": {"r": -1}}, "type LOHA .* does not fit"),
    ],
)
def test_a_config_of_the_library_that_would_do_something_else_is_refused(options, words):
    pytest.importorskip("peft")
    with pytest.raises(UserError, match=words):
        peft.attach(build(), "peft", **options)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("LORA", {}),
        ("LORA", {"init_lora_weights": "gaussian"}),
        ("LORA", {"init_lora_weights": False}),
        ("LOHA", {"init_weights": False}),
        ("LOKR", {"init_weights": "lycoris"}),
        ("FOURIERFT", {"n_frequency": 20}),
        ("FOURIERFT", {"n_frequency": 20, "init_weights": True}),
        ("C3A", {"block_size": 8}),
        ("C3A", {"block_size": 8, "init_weights": True}),
        ("UNILORA", {}),
        ("VBLORA", {"num_vectors": 8, "vector_length": 8, "topk": 2}),
    ],
)
def test_the_bridge_knows_which_types_start_as_the_backbone(kind, config):
    pytest.importorskip("peft")
    model, images = build().eval(), batch(2)[0]
    before = model(images)
    peft.attach(model, "peft", type=kind, config=config)
    assert torch.equal(model(images), before) == model.peft.method.starts_as_backbone


def test_attaching_again_after_lora_was_merged():
    model = peft.merge(peft.attach(build(), "lora", rank=2))
    assert peft.attach(model, "mosa", bottleneck=8).peft.method.name == "mosa"


@pytest.mark.parametrize(
    "call",
    [peft.merge, peft.tuned_state_dict, peft.count_parameters, lambda m: peft.forward_passes(m, None, 2)],
)
def test_nothing_attached(call):
    with pytest.raises(UserError, match="no method attached: call mosa"):
        call(build())


@pytest.mark.parametrize(
    ("saved", "loading", "words"),
    [
        (("adapter", {"bottleneck": 8}), ("adapter", {"bottleneck": 4}), "has shape"),
        (
            ("mosa", {"bottleneck": 8, "experts": 2}),
            ("mosa", {"bottleneck": 8, "experts": 4}),
            "lacks 6 tensors",
        ),
        (
            ("mosa", {"bottleneck": 8}),
            ("adapter", {"bottleneck": 8}),
            "does not fit the attached method 'adapter'",
        ),
        (("adapter", {"bottleneck": 8}), ("lora", {}), "does not fit the attached method 'lora'"),
        (
            ("adapter", {"bottleneck": 8, "classes": 7}),
            ("adapter", {"bottleneck": 8}),
            "the number of classes",
        ),
    ],
)
def test_state_made_for_other_options(saved, loading, words):
    def model(method, options):
        options = dict(options)
        return peft.attach(build(classes=options.pop("classes", 5)), method, **options)

    state = peft.tuned_state_dict(model(*saved))
    target = model(*loading)
    before = {name: value.clone() for name, value in peft.tuned_state_dict(target).items()}
    with pytest.raises(UserError, match=words):
        peft.load_tuned_state_dict(target, state)
    assert all(torch.equal(before[name], value) for name, value in peft.tuned_state_dict(target).items())


def test_file_made_for_other_options_names_them(tmp_path):
    """Options that leave no trace in the shapes are distinguished by the file's metadata."""
    path = tmp_path / "tuned.safetensors"
    peft.save_tuned(peft.attach(build(), "adapter", bottleneck=8, scale=0.1), path)
    with pytest.raises(UserError, match=r"made for scale=0\.1; the model has scale=0\.5"):
        peft.load_tuned(peft.attach(build(), "adapter", bottleneck=8, scale=0.5), path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_file_that_is_not_safetensors(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        peft.load_tuned(peft.attach(build(), "linear"), path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        peft.load_tuned(peft.attach(build(), "linear"), tmp_path / "none.safetensors")


@pytest.mark.parametrize("method", ["ssf", "rlrr"])
def test_a_norm_without_a_weight_has_nothing_that_a_scale_merges_into(method):
    model = build()
    model.norm = nn.LayerNorm(32, elementwise_affine=False)
    with pytest.raises(UserError, match="do not merge into the LayerNorm without a weight of VisionTransf"):
        peft.attach(model, method)


@pytest.mark.parametrize("name", ["", 3])
def test_a_method_has_a_name_or_none(name):
    with pytest.raises(UserError, match=f"name={name!r}: expected a name, or None"):
        peft.attach(build(), "lora", name=name)


def test_a_network_beside_the_trunk_has_to_be_defined():
    class Beside(Lst):
        network = Side.network

    model = build()
    with pytest.raises(UserError, match="lst: its class Beside defines no `network`; define it"):
        peft.attach(model, Beside())
    assert not hasattr(model, "peft")


def test_a_placement_of_another_type_is_a_sentence():
    with pytest.raises(UserError, match="placement"):
        peft.build_method("adapter", placement=["adaptformer"])


def test_generators_of_gpus_are_not_touched(monkeypatch):
    seeded = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", seeded.append)
    model, _ = build_backbone("mosa_vit_micro", "random", 3)
    peft.attach(model, "mosa", num_classes=7, seed=3)
    assert not seeded
    torch.manual_seed(0)
    assert seeded  # that is what would have been seen

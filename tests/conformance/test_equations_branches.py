"""Methods with branches and factorised changes against their equations, computed independently in float64."""

import copy

import pytest
import torch
from models import batch, build, train_steps
from torch.nn import functional as F

from mosa import peft
from mosa.base.errors import UserError
from mosa.base.timm import timm
from mosa.peft.blocks import find_blocks

F64 = torch.float64


def trained(method, **options):
    """Return a trained model, and a frozen backbone with the same weights."""
    model = peft.attach(build(dtype=F64), method, **options)
    train_steps(model, steps=2, lr=0.1)
    return model, build(dtype=F64).eval()


@pytest.mark.parametrize("form", ["tt", "tk"])
def test_fact_changes_every_square_by_shared_factors(form):
    """W_j' = W_j + s V S_j U, the squares of all layers in the order q, k, v, proj, fc1, fc2."""
    model, plain = trained("fact", form=form, rank=4, scale=0.7)
    shared, tuned = model.fact, model.blocks[1]
    u, v = shared.u.weight, shared.v.weight
    assert v.any()

    def square(number, core):
        if form == "tk":
            core = sum(shared.slices[p, 12 + number] * shared.core[:, :, p].T for p in range(4))
        return 0.7 * v @ core @ u

    block = plain.blocks[1]
    layers = {
        "qkv": (block.attn.qkv, 0),
        "proj": (block.attn.proj, 3),
        "fc1": (block.mlp.fc1, 4),
        "fc2": (block.mlp.fc2, 8),
    }
    for name, (layer, first) in layers.items():
        own = getattr(tuned.attn if name in ("qkv", "proj") else tuned.mlp, name)
        dim = 1 if name == "fc2" else 0
        count = max(layer.weight.shape) // 32
        cores = own.core.weight.split(4, dim) if form == "tt" else [None] * count
        changes = [square(first + index, core) for index, core in enumerate(cores)]
        weight = layer.weight + torch.cat(changes, dim)
        x = torch.randn(3, layer.in_features, dtype=F64)
        torch.testing.assert_close(own(x), x @ weight.T + layer.bias, atol=1e-12, rtol=0)


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def test_convpass_convolves_patches_and_the_class_token_apart():
    model, plain = trained("convpass", bottleneck=4, scale=0.7, start="xavier")
    block, own = model.blocks[1], plain.blocks[1]

    def branch(module, h):
        z = quick_gelu(h @ module.down.weight.T + module.down.bias)
        patches = F.pad(z[:, 1:].view(2, 4, 4, 4), (0, 0, 1, 1, 1, 1))  # one row and column of zeros around
        conv = module.conv.weight
        out = sum(patches[:, i : i + 4, j : j + 4] @ conv[:, :, i, j].T for i in range(3) for j in range(3))
        out = torch.cat((z[:, :1] @ conv[:, :, 1, 1].T, out.reshape(2, 16, 4)), dim=1) + module.conv.bias
        return 0.7 * (quick_gelu(out) @ module.up.weight.T + module.up.bias)

    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + own.attn(own.norm1(x)) + branch(block.convpass_attention, own.norm1(x))
    expected = h + own.mlp(own.norm2(h)) + branch(block.convpass_mlp, own.norm2(h))
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_convpass_starts_with_the_identity():
    conv = peft.attach(build(), "convpass", bottleneck=4).blocks[0].convpass_attention.conv
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(conv(x), x)


def test_adapter_plus_is_scaled_for_each_channel_after_the_block():
    model, plain = trained("adapter_plus", bottleneck=4)
    adapter = model.blocks[1].adapter
    x = torch.randn(2, 17, 32, dtype=F64)
    y = plain.blocks[1](x)
    z = F.gelu(y @ adapter.down.weight.T + adapter.down.bias)
    expected = y + adapter.scale * (z @ adapter.up.weight.T + adapter.up.bias)
    assert adapter.scale.shape == (32,) and adapter.scale.std() > 0
    torch.testing.assert_close(model.blocks[1](x), expected, atol=1e-12, rtol=0)


def test_adapter_plus_starts_as_its_paper_says():
    adapter = peft.attach(build(), "adapter_plus").blocks[0].adapter
    for layer in (adapter.down, adapter.up):
        assert layer.weight.abs().max() <= 0.02
        assert abs(layer.weight.std().item() - 0.0088) < 0.001  # of a normal cut at two deviations
        assert not layer.bias.any()
    assert torch.equal(adapter.scale, torch.ones(32)) and adapter.drop_path.drop_prob == 0.1


@pytest.mark.parametrize("architecture", ["vit_layerscale_droppath", "swin", "convnext"])
def test_difffit_scales_what_attention_and_mlp_add(architecture):
    model = peft.attach(build(architecture, dtype=F64), "difffit")
    start = {name: value.clone() for name, value in model.state_dict().items()}
    train_steps(model, steps=2, lr=0.1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    norms = ("norm", ".downsample.0.", "stem.1.")
    for name in changed:
        tuned = name.endswith((".bias", "gamma.scale")) or any(part in name for part in norms)
        assert tuned or name.startswith("head."), name
    for block in find_blocks(model):
        for site, layer in (("attn", "proj"), ("mlp", "fc2")):
            if not hasattr(block, site):
                continue
            layer = getattr(getattr(block, site), layer)
            x = torch.randn(2, 3, layer.in_features, dtype=F64)
            assert layer.gamma.scale.std() > 0
            torch.testing.assert_close(layer(x), layer.gamma.scale * F.linear(x, layer.weight, layer.bias))


def test_mona_convolves_at_three_scales():
    model, plain = trained("mona", bottleneck=4)
    block, own = model.blocks[1], plain.blocks[1]

    def spatial(module, z):
        pieces = [
            F.conv2d(z, c.weight, c.bias, padding=c.weight.shape[-1] // 2, groups=4) for c in module.convs
        ]
        f = sum(pieces) / 3 + z
        return f + F.conv2d(f, module.mix.weight[:, :, None, None], module.mix.bias)

    def branch(module, h):
        z = (
            F.layer_norm(h, (32,), module.norm.weight, module.norm.bias) * module.norm_scale
            + h * module.scale
        )
        z = z @ module.down.weight.T + module.down.bias
        patches = spatial(module, z[:, 1:].mT.reshape(2, 4, 4, 4)).reshape(2, 4, 16).mT
        token = spatial(module, z[:, 0, :, None, None]).view(2, 1, 4)
        return F.gelu(torch.cat((token, patches), dim=1)) @ module.up.weight.T + module.up.bias

    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + own.attn(own.norm1(x))
    h = h + branch(block.mona_attention, h)
    y = h + own.mlp(own.norm2(h))
    torch.testing.assert_close(block(x), y + branch(block.mona_mlp, y), atol=1e-12, rtol=0)


def test_lorand_sums_products_with_shared_kernels():
    model, plain = trained("lorand", kernels=2, rank=3)
    block, own = model.blocks[1], plain.blocks[1]

    def adapted(module, m):
        def weight(left, right):
            branches = zip(left.weight.split(3, 1), module.kernels, right.weight.split(3), strict=True)
            return sum(one @ kernel @ other for one, kernel, other in branches)

        hidden = F.gelu(m @ weight(module.q, module.p).T + module.q.bias)
        assert hidden.shape[-1] == 16
        return m + hidden @ weight(module.s, module.r).T + module.s.bias

    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + adapted(block.lorand_attention, own.attn(own.norm1(x)))
    expected = h + adapted(block.lorand_mlp, own.mlp(own.norm2(h)))
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=0)


def test_hydra_stands_on_input_and_output_of_a_layer():
    model, plain = trained("hydra", rank=2, scale=0.7)
    for own, layer in ((model.blocks[1].attn.proj, plain.blocks[1].attn.proj),
                       (model.blocks[1].mlp.fc2, plain.blocks[1].mlp.fc2)):  # fmt: skip
        x = torch.randn(3, layer.in_features, dtype=F64)
        y = expected = layer(x)
        for branch, of in ((own.parallel, x), (own.sequential, y)):
            z = of @ branch.down.weight.T + branch.down.bias
            expected = expected + 0.7 * (z @ branch.up.weight.T + branch.up.bias)
            assert branch.up.weight.any() and branch.up.bias.any()
        torch.testing.assert_close(own(x), expected, atol=1e-12, rtol=0)


def test_utuning_stands_beside_frozen_operations():
    model, plain = trained("utuning", bottleneck=4, places=["block", "attention", "mlp"], scale=0.7)
    own, tuners = plain.blocks[1], model.blocks[1].tuners

    def tuner(name, x):
        z = F.gelu(x @ tuners[name].down.weight.T + tuners[name].down.bias)
        return 0.7 * (z @ tuners[name].up.weight.T + tuners[name].up.bias)

    x = torch.randn(2, 17, 32, dtype=F64)
    h = x + own.attn(own.norm1(x)) + tuner("attention", own.norm1(x))
    y = h + own.mlp(own.norm2(h)) + tuner("mlp", own.norm2(h))
    torch.testing.assert_close(model.blocks[1](x), y + tuner("block", x), atol=1e-12, rtol=0)


def test_dora_trains_the_norm_of_each_row():
    model, plain = trained("dora", rank=4, scale=0.7)
    own, qkv = model.blocks[1].attn.qkv, plain.blocks[1].attn.qkv
    rows = []
    for part, weight in zip("qkv", qkv.weight.split(32), strict=True):
        if part != "k":
            change = own.low_rank[part]
            weight = weight + 0.7 * change.up.weight @ change.down.weight
            weight = own.magnitude[part][:, None] * weight / weight.square().sum(1, keepdim=True).sqrt()
        rows.append(weight)
    x = torch.randn(3, 32, dtype=F64)
    torch.testing.assert_close(own(x), x @ torch.cat(rows).T + qkv.bias, atol=1e-12, rtol=0)


def test_dora_leaves_a_row_of_zeros_as_it_is():
    model = build()
    with torch.no_grad():
        model.blocks[0].mlp.fc1.weight[3] = 0
    images, _ = batch()
    expected = model.eval()(images)
    torch.testing.assert_close(peft.attach(model, "dora", rank=2, targets=["fc1"]).eval()(images), expected)


def test_dora_is_that_of_hugging_face():
    """Outputs and gradients, on one layer that the library wraps as a whole."""
    config = {"r": 4, "lora_alpha": 8, "use_dora": True}
    theirs = peft.attach(build(dtype=F64), "peft", targets=["fc1"], config=config)
    ours = peft.attach(build(dtype=F64), "dora", rank=4, scale=2.0, targets=["fc1"])
    train_steps(theirs, steps=2, lr=0.1)
    pairs = []
    for block, other in zip(ours.blocks, theirs.blocks, strict=True):
        own, layer = block.mlp.fc1, other.mlp.fc1
        pairs += [(own.low_rank["fc1"].down.weight, layer.lora_A["default"].weight),
                  (own.low_rank["fc1"].up.weight, layer.lora_B["default"].weight),
                  (own.magnitude["fc1"], layer.lora_magnitude_vector["default"].weight)]  # fmt: skip
    ours.head.load_state_dict(theirs.head.state_dict())
    with torch.no_grad():
        for one, other in pairs:
            one.copy_(other)
    theirs.zero_grad()
    images, labels = batch(dtype=F64)
    for model in (ours, theirs):
        F.cross_entropy(model(images), labels).backward()
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), atol=1e-12, rtol=0)
    for one, other in pairs:
        torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("of", "options"),
    [
        ("hydra", {"scale": 0.5}),
        ("convpass", {"dropout": 0.0}),
        ("adapter_plus", {"drop_path": 0.0}),
    ],
)
def test_a_split_method_is_the_dense_one_with_one_expert_in_each_place(of, options):
    model = peft.attach(build(dtype=F64), "split", of=of, of_options=options, consistency=0.0)
    train_steps(model)
    active, split = [], model.peft.method.branches(model)
    for branch in split:
        branch.up.register_forward_hook(lambda up, inputs, output: active.append(int(up.active)))
    images, _ = batch(dtype=F64)
    output = model.train()(images)
    dense = peft.attach(build(dtype=F64), of, **options)
    own = {name: value for name, value in model.state_dict().items() if name in dense.state_dict()}
    dense.load_state_dict(own, strict=False)
    with torch.no_grad():
        for branch, plain, expert in zip(split, dense.peft.method.branches(dense), active, strict=True):
            plain.up.weight.copy_(branch.up.expert_weight(expert))
            plain.up.bias.copy_(branch.up.expert_bias(expert))
    assert len(set(active)) > 1
    assert torch.allclose(dense.train()(images), output, atol=1e-12, rtol=0)


ON_IMAGES = [
    ("convpass", {"bottleneck": 4, "start": "xavier"}),
    ("mona", {"bottleneck": 4}),
    ("dtl", {"plus": True}),
]


SWIN = {"depths": (1, 1), "num_heads": (1, 2), "embed_dim": 16, "patch_size": 8, "window_size": 2}


@pytest.mark.parametrize(
    ("name", "arguments", "method", "options"),
    [
        *(("vit_tiny_patch16_224", {"depth": 2, "patch_size": 8}, *one) for one in ON_IMAGES),
        *(("swin_tiny_patch4_window7_224", SWIN, *one) for one in ON_IMAGES[:2]),
    ],
)
def test_a_model_of_any_grid_takes_the_one_that_its_branches_convolve(name, arguments, method, options):
    """As many patches do not make the same image."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, img_size=32, dynamic_img_size=True, **arguments).eval()
    peft.attach(model, method, **options)
    wide = torch.randn(2, 3, 16, 64)
    message = "images of 16x64 have 2x8 patches, and the method was attached for 4x4: build the model for"
    for one in (model, copy.deepcopy(model), peft.merge(copy.deepcopy(model))):
        assert one(torch.randn(2, 3, 32, 32)).shape == (2, 3)
        with pytest.raises(UserError, match=message):
            one(wide)
    assert peft.detach(model)(wide).shape == (2, 3)

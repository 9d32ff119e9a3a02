"""Methods on a transformer that is not timm's, by the description of its blocks."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mosa import peft
from mosa.base.errors import UserError
from mosa.peft.blocks import find_blocks
from mosa.peft.losses import tuning_loss


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.out = nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.query(x).chunk(2, -1), self.key(x), self.value(x)
        heads = [F.scaled_dot_product_attention(one, k, v) for one in q]
        return self.out(torch.cat(heads, dim=-1))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.between = nn.LayerNorm(16), nn.RMSNorm(16)
        self.attention, self.dropped = SelfAttention(), nn.Identity()
        self.ffn = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, tokens):
        tokens = tokens + self.dropped(self.attention(self.before(tokens)))
        return tokens + self.ffn(self.between(tokens))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList([Layer(), Layer()])})
        self.classify = nn.Linear(16, 4)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.classify(x.mean(1))


PARTS = {
    **{"mlp": "ffn", "residual": "between", "attention": "attention", "attended": "dropped"},
    **{"q": "attention.query", "k": "attention.key", "v": "attention.value", "proj": "attention.out"},
    **{"fc1": "ffn.0", "fc2": "ffn.2"},
}


def described(block=Layer, head="classify", input_size=(3, 8, 12), **changes):
    torch.manual_seed(0)
    model = Classifier().double()
    parts = {name: value for name, value in (PARTS | changes).items() if value is not None}
    return peft.describe_blocks(model, block, head=head, input_size=input_size, **parts)


CASES = {
    "adaptformer": ("adapter", {"bottleneck": 4}),
    "residuals": ("adapter", {"bottleneck": 4, "placement": "residuals"}),
    "houlsby": ("mosa", {"bottleneck": 4, "placement": "houlsby"}),
    "lora": ("lora", {"rank": 4, "targets": ["q", "k", "v", "proj", "fc1", "fc2"]}),
    "mosl": ("mosl", {"rank": 4}),
    "partial": ("partial", {}),
    "ssf": ("ssf", {"spread": 0.0}),
    "bias": ("bias", {}),
}


class WithAdapter(Layer):
    def __init__(self):
        super().__init__()
        self.adapter = nn.Linear(16, 16)

    def forward(self, x):
        return super().forward(x) + self.adapter(x)


def test_a_module_of_the_model_is_not_replaced_by_one_of_the_same_name():
    model = Classifier().double()
    model.encoder["layers"] = nn.ModuleList([WithAdapter(), WithAdapter()]).double()
    peft.describe_blocks(model, WithAdapter, head="classify", input_size=(3, 8, 12), **PARTS)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    before = model.eval()(images)
    with pytest.raises(UserError, match=r"would replace .encoder\.layers\.0\.adapter\.weight."):
        peft.attach(model, "adapter")
    assert torch.equal(model(images), before) and not hasattr(model, "peft")
    peft.attach(model, "lora", rank=2, targets=["q", "v"])


@pytest.mark.parametrize("case", CASES)
def test_a_method_starts_as_the_backbone_trains_and_merges(case):
    method, options = CASES[case]
    backbone = described()
    model = peft.attach(copy.deepcopy(backbone), method, **options)
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(model.eval()(images), backbone.eval()(images), atol=1e-12, rtol=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        tuning_loss(model.train(), images, torch.tensor([0, 1])).backward()
        optimizer.step()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    count = peft.count_parameters(model)
    assert (count.head, count.adapter) == (68, model.peft.method.parameters(model, training=True))
    expected = model.eval()(images)
    assert not torch.allclose(expected, backbone(images))
    torch.testing.assert_close(peft.merge(model)(images), expected, atol=1e-12, rtol=0)


def test_adapter_stands_beside_the_mlp():
    model = peft.attach(described(), "adapter", bottleneck=4, norm=False, dropout=0.0)
    layer = model.encoder["layers"][1]
    nn.init.normal_(layer.adapter.up.weight)
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    h = x + layer.attention(layer.before(x))
    branch = 0.1 * layer.adapter.up(F.gelu(layer.adapter.down(h)))
    torch.testing.assert_close(layer(x), h + layer.ffn(layer.between(h)) + branch, atol=1e-12, rtol=0)


class Adding(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(32, 16)

    def forward(self, y, residual):
        return self.dense(y) + residual


class Sublayers(nn.Module):
    """As Hugging Face's ViT: an attention that returns a tuple, and an MLP that adds the stream itself."""

    def __init__(self):
        super().__init__()
        self.attention, self.output = SelfAttention(), Adding()
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.intermediate = nn.Sequential(nn.Linear(16, 32), nn.GELU())
        self.attention.register_forward_hook(lambda module, inputs, output: (output,))

    def forward(self, hidden_states, head_mask=None):
        hidden_states = self.attention(self.layernorm_before(hidden_states))[0] + hidden_states
        y = self.intermediate(self.layernorm_after(hidden_states))
        return (self.output(y, hidden_states),)


class First(nn.Module):
    """Layers that return tuples, called by position or by keyword."""

    def __init__(self, keyword):
        super().__init__()
        self.layer, self.keyword = nn.ModuleList([Sublayers(), Sublayers()]), keyword

    def forward(self, x):
        for layer in self.layer:
            x = (layer(hidden_states=x) if self.keyword else layer(x, None))[0]
        return x


def hugging_face(keyword=False, **changes):
    torch.manual_seed(0)
    model = Classifier().double()
    model.encoder = nn.ModuleDict({"layers": nn.ModuleList([First(keyword).double()])})
    parts = {"mlp": "output.dense", "residual": "layernorm_after", "attention": "attention"}
    parts |= {"attended": "attention", "q": "attention.query", "v": "attention.value"} | changes
    return peft.describe_blocks(model, Sublayers, head="classify", input_size=(3, 8, 12), **parts)


@pytest.mark.parametrize("placement", ["adaptformer", "pfeiffer", "residuals", "sequential"])
def test_blocks_may_return_tuples(placement):
    model = peft.attach(hugging_face(), "adapter", bottleneck=4, placement=placement, norm=False).eval()
    layer, own = (one.encoder["layers"][0].layer[1] for one in (model, hugging_face()))
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    branches = [layer.adapter, getattr(layer, "adapter_attention", None)]
    for branch in filter(None, branches):
        nn.init.normal_(branch.up.weight)
    h = x + own.attention(own.layernorm_before(x))[0]
    if branches[1] is not None:
        h = h + branches[1](h)
    m = own.output.dense(own.intermediate(own.layernorm_after(h)))
    read = {"adaptformer": h, "pfeiffer": m}.get(placement, h + m)
    torch.testing.assert_close(layer(x, None)[0], h + m + branches[0](read), atol=1e-12, rtol=0)


def test_what_a_tuple_cannot_be_told_from_is_refused():
    with pytest.raises(UserError, match="the output of 'output' is the block's, expected what is added"):
        hugging_face(mlp="output", attended="attention")
    with pytest.raises(UserError, match="the block is called without a positional argument"):
        hugging_face(keyword=True)


def convnext(size):
    """torchvision's ConvNeXt, whose blocks have the channels first."""
    from torchvision.models.convnext import CNBlock, CNBlockConfig, ConvNeXt  # after mosa.base.torchvision

    torch.manual_seed(0)
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]
    model = ConvNeXt(stages, num_classes=4).eval()
    parts = {"mlp": "block", "norm": "block.2", "fc1": "block.3", "fc2": "block.5"}
    return peft.describe_blocks(model, CNBlock, head="classifier.2", input_size=(3, size, size), **parts)


def test_channels_may_be_the_first_dimension_after_the_batch():
    model = peft.attach(convnext(24), "adapter", bottleneck=4, norm=False).eval()
    block = find_blocks(model)[0]
    nn.init.normal_(block.adapter.up.weight)
    x = torch.randn(2, 8, 6, 6)
    down, up = block.adapter.down, block.adapter.up
    branch = 0.1 * up(F.gelu(down(x.movedim(1, -1)))).movedim(-1, 1)
    with torch.no_grad():
        expected = x + block.layer_scale * block.block(x) + branch
        torch.testing.assert_close(block(x), expected)
    with pytest.raises(UserError, match=r"the 8 channels .* the block 2x8x8x8, 'block' 2x8x8x8; take"):
        convnext(32)


def test_torchvisions_attention_is_adapted_and_never_wrapped():
    """It passes the weights of its layers to a function, and calls none of them."""
    from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

    torch.manual_seed(0)
    parts = {"residual": "ln_2", "mlp": "mlp", "attention": "self_attention", "attended": "dropout"}
    plain = VisionTransformer(32, 16, 2, 2, 16, 32, num_classes=4).eval()
    described = {"head": "heads.head", "input_size": (3, 32, 32), **parts}
    with pytest.raises(UserError, match=r"'self_attention.out_proj' is called 0 times in a forward"):
        peft.describe_blocks(plain, EncoderBlock, **described, proj="self_attention.out_proj")
    model = peft.describe_blocks(copy.deepcopy(plain), EncoderBlock, **described)
    with pytest.raises(UserError, match="target 'q': EncoderBlock has no such Linear layer"):
        peft.attach(model, "lora", rank=2)
    with pytest.raises(UserError, match=r"do not merge into the NonDynamicallyQuantizableLinear"):
        peft.attach(model, "ssf")
    peft.attach(model, "mosa", bottleneck=4, placement="houlsby").eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), plain(images), atol=1e-6, rtol=0)
    tuning_loss(model.train(), images, torch.tensor([0, 1])).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


class Twice(Layer):
    def forward(self, tokens):
        return super().forward(tokens) + self.dropped(tokens)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block": Twice}, "Classifier has no module of exactly the type Twice"),
        ({"head": "fc"}, "head 'fc': Classifier has no such module"),
        ({"head": "classify.weight"}, "head 'classify.weight': Classifier has no such module"),
        ({"head": nn.Linear(2, 2)}, r"head Linear\(in.*: expected the name of a module"),
        ({"mlp": nn.Linear(2, 2)}, r"mlp Linear\(in.*: expected the name of a module"),
        ({"block": "Layer"}, "block 'Layer': expected the type of the blocks, a class of modules"),
        ({"input_size": 12}, r"input_size=12: expected \(channels, height, width\)"),
        ({"input_size": (8, 12)}, r"input_size=\(8, 12\): expected \(channels, height, width\)"),
        ({"input_size": (1, 8, 12)}, "Classifier cannot be run on images of 1x8x12: RuntimeError"),
        ({"mpl": "ffn"}, "unknown part 'mpl' of a block.*did you mean 'mlp'"),
        ({"mlp": None}, "mlp: expected the name of the module whose output is added"),
        ({"mlp": "feed"}, "mlp 'feed': Layer has no such module"),
        ({"residual": "between.norm"}, "Layer needs a norm"),
        ({"residual": None}, "norm '': Layer needs a norm, or another module with a weight per channel"),
        ({"residual": None, "norm": "ffn.0"}, "norm 'ffn.0': Layer needs a norm"),
        ({"residual": "before"}, "'before' is called before 'attention'"),
        ({"attended": "ffn"}, "the input of 'between' is not the block's plus the output of 'ffn'"),
        ({"attended": "attention.out"}, "attended 'attention.out': Layer needs a module of its own here"),
        ({"fc1": "ffn.1"}, "fc1 'ffn.1': Layer has a GELU there, expected a Linear"),
        ({"qkv": "ffn.2"}, "qkv 'ffn.2': Layer has 16 outputs there, which are no equal parts"),
        ({"block": nn.TransformerEncoderLayer}, "torch's encoder layer computes with its weights alone"),
    ],
)
def test_a_description_that_does_not_fit(changes, words):
    with pytest.raises(UserError, match=words):
        described(**changes)


def test_a_part_that_is_called_twice():
    model = Classifier()
    model.encoder["layers"][0] = Twice()
    with pytest.raises(UserError, match="Twice: 'dropped' is called 2 times in a forward, expected once"):
        peft.describe_blocks(model, Twice, head="classify", input_size=(3, 8, 12), **PARTS)


def test_a_part_that_is_not_called():
    model = Classifier()
    model.encoder["layers"][0].attention.spare = nn.Linear(16, 16)
    model.encoder["layers"][1].attention.spare = nn.Linear(16, 16)
    with pytest.raises(UserError, match=r"'attention.spare' is called 0 times in a forward, expected once"):
        parts = PARTS | {"q": "attention.spare"}
        peft.describe_blocks(model, Layer, head="classify", input_size=(3, 8, 12), **parts)


class Half(nn.Linear):
    def forward(self, x):
        return 0.5 * super().forward(x)


@pytest.mark.parametrize("part", ["q", "proj", "fc2"])
def test_a_layer_that_derives_from_a_linear_one(part):
    model = Classifier()
    for layer in model.encoder["layers"]:
        owner, _, name = PARTS[part].rpartition(".")
        setattr(layer.get_submodule(owner), name, Half(32 if part == "fc2" else 16, 16))
    peft.describe_blocks(model, Layer, head="classify", input_size=(3, 8, 12), **PARTS)
    with pytest.raises(UserError, match=r"is a Half, so that a change of its weight may not be one of its"):
        peft.attach(model, "lora", rank=2, targets=[part])
    peft.attach(model, "adapter", bottleneck=4)  # which leaves it alone


def test_what_is_not_described_is_refused():
    with pytest.raises(UserError, match="Layer has no attention, whose output it adapts"):
        peft.attach(described(attention=None, attended=None), "adapter", bottleneck=4, placement="houlsby")
    with pytest.raises(UserError, match="target 'q': Layer has no such Linear layer"):
        peft.attach(described(q=None), "lora", rank=4)
    with pytest.raises(UserError, match="vpt does not fit blocks of describe_blocks"):
        peft.attach(described(), "vpt")
    with pytest.raises(UserError, match=r"has no get_classifier.*describe_blocks"):
        peft.attach(Classifier(), "adapter")
    with pytest.raises(UserError, match="a method attached already"):
        model = peft.attach(described(), "adapter", bottleneck=4)
        peft.describe_blocks(model, Layer, head="classify", input_size=(3, 8, 12), **PARTS)
    with pytest.raises(UserError, match="a method attached already"):
        peft.set_active(model, None)
        peft.describe_blocks(model, Layer, head="classify", input_size=(3, 8, 12), **PARTS)
    with pytest.raises(UserError, match="expected a model, got 'Classifier'"):
        peft.describe_blocks("Classifier", Layer, head="classify", input_size=(3, 8, 12), **PARTS)

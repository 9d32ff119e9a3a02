"""Methods that choose what they tune, and networks beside a frozen trunk, against their equations."""

import pytest
import torch
import torch.nn.functional as F
from models import batch, build, train_steps

from mosa import peft
from mosa.base.errors import UserError

F64 = torch.float64


def test_gps_tunes_the_connection_of_each_neuron_with_the_largest_gradient_and_nothing_else():
    """The gradients are those of full tuning, and the loss a plain double sum over pairs of a class."""
    images, labels = batch(size=6, dtype=F64)
    model, plain = build(dtype=F64), build(dtype=F64).eval()
    peft.attach(model, "gps", connections=2, data=[(images[:3], labels[:3]), (images[3:], labels[3:])])
    total = torch.zeros(())
    for part, own in ((images[:3], labels[:3]), (images[3:], labels[3:])):
        z = plain.forward_head(plain.forward_features(part), pre_logits=True)
        similar = (z / z.norm(dim=1, keepdim=True)) @ (z / z.norm(dim=1, keepdim=True)).T / 0.07
        anchors = []
        for i in range(3):
            others = [j for j in range(3) if j != i]
            same = [j for j in others if own[j] == own[i]]
            if same:
                shares = similar[i, same].exp() / similar[i, others].exp().sum()
                anchors.append(-shares.log().mean())
        if anchors:
            total = total + sum(anchors) / len(anchors)
    total.backward()
    train_steps(model, steps=2)
    peft.merge(model)
    for name, weight in plain.named_parameters():
        trained, moved = model.get_parameter(name), model.get_parameter(name) != weight
        if "head" in name or name.endswith(("proj.bias", "qkv.bias", "fc1.bias", "fc2.bias")):
            assert moved.any(), name
        elif weight.dim() > 1 and "weight" in name:
            largest = weight.grad.abs().flatten(1).topk(2).indices
            expected = torch.zeros_like(weight, dtype=torch.bool).flatten(1).scatter(1, largest, True)
            assert torch.equal(moved.flatten(1), expected), name
        else:
            assert torch.equal(trained, weight), name


def test_gps_needs_two_images_of_a_class():
    images, _ = batch(size=2)
    with pytest.raises(UserError, match="two images are of the same class"):
        peft.attach(build(), "gps", data=[(images, torch.tensor([0, 1]))])
    peft.attach(build(), "gps", data=[(images, torch.tensor([0, 1]))], loss="cross_entropy")


def tokens_of(model, images):
    """The tokens after each number of blocks of a plain model."""
    found = [model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))]
    for block in model.blocks:
        found.append(block(found[-1]))
    return found


def logits_of(model, tokens):
    return model.forward_head(model.norm(tokens))


def test_lst_is_a_gated_ladder_of_narrow_blocks():
    """Every block of the ladder is written out: h + attention, h + MLP, on a gated mean of two inputs."""
    model = peft.attach(build(dtype=F64), "lst", reduction=4)
    train_steps(model, lr=0.1)
    images, _ = batch(dtype=F64)
    z, side = tokens_of(build(dtype=F64).eval(), images), model.side
    h = z[0] @ side.down[0].weight.T
    for i, block in enumerate(side.blocks):
        gate = 1 / (1 + (-side.gates[i] / 0.1).exp())
        assert 0 < gate < 1 and gate != 0.5
        h = gate * h + (1 - gate) * (z[i + 1] @ side.down[i + 1].weight.T)
        x = F.layer_norm(h, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
        qkv = (x @ block.attn.qkv.weight.T + block.attn.qkv.bias).unflatten(2, (3, 2, 4))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = h + attended @ block.attn.proj.weight.T + block.attn.proj.bias
        x = F.layer_norm(h, (8,), block.norm2.weight, block.norm2.bias, 1e-6)
        x = F.gelu(x @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        h = h + x @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    expected = logits_of(model, h @ side.up.weight.T)
    torch.testing.assert_close(model(images), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("gap", [1, 3])
def test_last_subtracts_what_the_blocks_gave_before(gap):
    """u_i = F_i(u_(i-1) + z_i), and u_m minus the sum of z_i before: the paper's form, without ours."""
    model = peft.attach(build(dtype=F64), "last", rank=4, gap=gap, modules=2)
    train_steps(model, lr=0.1)
    images, _ = batch(dtype=F64)
    z = tokens_of(build(dtype=F64).eval(), images)[::gap]
    u = z[0]
    for step, own in zip(model.side.steps, z[1:], strict=True):
        u = u + own
        for module in step:
            x = F.layer_norm(u, (32,), module.norm.weight, module.norm.bias)
            q, k, v = (x @ weight.T for weight in module.qkv.weight.chunk(3))
            u = u + (q @ k.mT / 4**0.5).softmax(-1) @ v @ module.out.weight.T
    expected = logits_of(model, u - sum(z[:-1]))
    torch.testing.assert_close(model(images), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("plus", [False, True])
def test_dtl_feeds_a_sum_of_low_rank_maps_back(plus):
    """The convolution of DTL+ is a sum over shifted grids; the class token passes it by."""
    model = peft.attach(build(dtype=F64), "dtl", rank=3, start=1, beta=2.0, plus=plus)
    train_steps(model, lr=0.1)
    images, _ = batch(dtype=F64)
    plain, side = build(dtype=F64).eval(), model.side
    x, h = tokens_of(plain, images)[0], 0
    for i, block in enumerate(plain.blocks):
        low, high = side.matrices[i]
        h = h + x @ (high.weight @ low.weight).T
        x = block(x)
        if i >= 1:
            theta = h / (1 + (-2 * h).exp())
            if plus:
                grid = F.pad(theta[:, 1:].reshape(6, 4, 4, 32), (0, 0, 1, 1, 1, 1))
                shifted = sum(
                    side.filters.weight[:, 0, row, column] * grid[:, row : row + 4, column : column + 4]
                    for row in range(3)
                    for column in range(3)
                )
                theta = torch.cat((theta[:, :1], shifted.reshape(6, 16, 32)), 1)
            x = x + theta
    torch.testing.assert_close(model(images), logits_of(model, x), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("method", "trunk"), [("lst", 3), ("last", 3), ("dtl", 2)])
def test_no_gradient_passes_through_the_trunk_and_nothing_of_it_is_kept(method, trunk):
    """DTL feeds back from the middle on: the blocks after that are passed."""
    model = peft.attach(build(), method).train()
    graphs, kept = [], []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
        block.mlp.fc1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    saved = set()
    pack = lambda tensor: saved.add(tensor.data_ptr()) or tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(batch()[0].requires_grad_()).sum().backward()
    assert graphs == [False] * trunk + [True] * (3 - trunk)
    assert not saved & {output.data_ptr() for output in kept[:trunk]}  # which still have their memory


@pytest.mark.parametrize("method", ["lst", "last", "dtl"])
def test_a_step_beside_the_trunk_takes_less_memory(method):
    from mosa.engine.cost.memory import step_memory
    from mosa.engine.machine import CPU
    from mosa.experiment.recipe import Recipe

    def peak(name):
        return step_memory(peft.attach(build(), name), 32, 64, Recipe(), CPU).peak

    assert peak(method) < 0.65 * peak("lora")


def test_spt_tunes_what_is_most_sensitive_under_its_budget():
    """Squared gradients of full tuning, ranked by a plain sort; the best of 79 sizes by a loop."""
    budget, rank = 1500, 2
    data = [batch(size=4, seed=seed, dtype=F64) for seed in (1, 2, 3)]
    model, plain = build(dtype=F64), build(dtype=F64).eval()
    peft.attach(model, "spt", budget=budget, rank=rank, batches=2, data=data)
    pieces = {}
    for images, labels in data[:2]:
        plain.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        for name, p in plain.named_parameters():
            if name.startswith(("blocks", "norm")):
                for part, rows in enumerate(p.grad.chunk(3) if "qkv" in name else [p.grad]):
                    pieces[name, part] = pieces.get((name, part), 0) + rows**2
    ranked = torch.cat([piece.flatten() for piece in pieces.values()]).sort(descending=True).values

    def tuned(least):
        """The tuned parameters of each piece, if those of at least this sensitivity are sensitive."""
        found = {}
        for key, piece in pieces.items():
            number = int((piece >= least).sum())
            size = rank * sum(piece.shape) if piece.dim() == 2 else len(piece)
            found[key] = size if number >= size / (10 if piece.dim() == 2 else 5) else number
        return found

    sizes = [75 * step for step in range(1, 80)]
    distance = {size: abs(sum(tuned(ranked[size - 1]).values()) + 32 - budget) for size in sizes}
    least = ranked[max(size for size in sizes if distance[size] == min(distance.values())) - 1]
    counts = tuned(least)
    assert peft.count_parameters(model).adapter == sum(counts.values()) + 32
    train_steps(model, steps=3)
    peft.merge(model)
    low_rank = 0
    for (name, part), piece in pieces.items():
        new, old = (m.get_parameter(name).detach() for m in (model, plain))
        new, old = (tensor.chunk(3)[part] if "qkv" in name else tensor for tensor in (new, old))
        if counts[name, part] == rank * sum(piece.shape) and piece.dim() == 2:
            low_rank += 1
            assert torch.linalg.matrix_rank(new - old, atol=1e-12) == rank
        else:
            sensitive = piece >= least
            whole = piece.dim() == 1 and counts[name, part] == len(piece)
            assert torch.equal(new != old, sensitive | whole), name
    assert 0 < low_rank < 18
    assert (model.cls_token != plain.cls_token).all()
    assert torch.equal(model.pos_embed, plain.pos_embed)


def test_spt_puts_adapters_on_the_outputs_of_sensitive_layers():
    """Against the backbone with the tuned values put in, and hooks; in evaluation, nothing is dropped."""
    data = [batch(size=4, seed=1, dtype=F64)]
    model, plain = build(dtype=F64), build(dtype=F64).eval()
    peft.attach(model, "spt", budget=6000, rank=2, alpha=50.0, form="adapter", data=data)
    train_steps(model)
    found = set()
    with torch.no_grad():
        plain.cls_token.copy_(model.cls_token)
        plain.head.load_state_dict(model.head.state_dict())
    for name, layer in model.named_modules():
        if not hasattr(layer, "spt"):
            continue
        own = plain.get_submodule(name)
        for kind in ("weight", "bias"):
            if (values := getattr(layer.spt, f"{kind}_values")) is not None:
                flat = getattr(own, kind).data.view(-1)
                flat[getattr(layer.spt, f"{kind}_places")] = values.detach().flatten()

        def adapt(_, inputs, output, layer=layer, name=name):
            chunks = list(output.chunk(len(layer.spt.low_rank), -1))
            for part, (down, _, up) in layer.spt.change.items():
                y = chunks[int(part)]
                inner = F.linear(inputs[0] if name.endswith("proj") else y, down.weight, down.bias)
                chunks[int(part)] = y + F.linear(F.gelu(inner), up.weight, up.bias)
            return torch.cat(chunks, -1)

        if layer.spt.change:
            found.add(name.rpartition(".")[2])
            own.register_forward_hook(adapt)
    assert found >= {"qkv", "proj", "fc1", "fc2"}
    images, _ = batch(dtype=F64)
    assert torch.allclose(model(images), plain(images), atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["lst", "last", "dtl"])
def test_the_seed_draws_the_network(method):
    first, other = (peft.tuned_state_dict(peft.attach(build(), method, seed=seed)) for seed in (0, 1))
    drawn = [name for name, value in first.items() if name.startswith("side") and len(value.unique()) > 1]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)


def test_what_the_network_does_not_act_on_is_refused():
    """timm's tokens between blocks are the trunk's, and its masks would hold for the trunk alone."""
    model = peft.attach(build(), "last").eval()
    images, _ = batch()
    with pytest.raises(UserError, match="call forward_features"):
        model.forward_intermediates(images)
    with pytest.raises(UserError, match="is not masked"):
        model(images, attn_mask=torch.ones(17, 17, dtype=torch.bool))

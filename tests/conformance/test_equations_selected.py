"""Methods that choose what they tune, and networks beside a frozen trunk, against their equations."""

import pytest
import torch
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

"""A trained method, used again: to predict, to train on, and for other classes.

Run `python examples/reuse.py`: it trains one for a moment first.
"""

import mosa.peft  # before timm, if a CPU-only torch is installed with PyPI's torchvision
import timm
import torch


def backbone() -> torch.nn.Module:
    """Return the same weights each time; yours: timm.create_model(name, pretrained=True)."""
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=3,
    )  # fmt: skip


images, labels = torch.randn(12, 3, 32, 32), torch.arange(12) % 3


def train(model: torch.nn.Module, labels: torch.Tensor) -> float:
    """Train ten steps, and return the loss of the last."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(10):
        loss = mosa.peft.tuning_loss(model.train(), images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


model = mosa.peft.attach(backbone(), "lora", rank=4)
train(model, labels)
mosa.peft.save_pretrained(model, "pets.safetensors", label_names=["cat", "dog", "horse"])

# To predict. With a pretrained backbone of timm, `from_pretrained("pets.safetensors")` is enough.
pets = mosa.peft.from_pretrained("pets.safetensors", backbone()).eval()
names = mosa.peft.get_label_names(pets)
print("predicted:", [names[index] for index in pets(images[:4]).argmax(1)])
assert torch.equal(pets(images), model.eval()(images))

# To train on.
print(f"loss after ten more steps: {train(pets, labels):.3f}")

# For other classes: what the method has learned, with a new classifier.
other = backbone()
other.reset_classifier(2)
mosa.peft.from_pretrained("pets.safetensors", other, head=False)
print(f"loss with two other classes: {train(other, labels % 2):.3f}")

# Beside another method on the same backbone.
both = mosa.peft.from_pretrained("pets.safetensors", backbone(), name="pets")
mosa.peft.attach(both, "mosa", name="cars", bottleneck=8, num_classes=5)
print("attached:", mosa.peft.list_adapters(both))
mosa.peft.set_active(both, "pets")
assert torch.equal(both.eval()(images), model(images))

# And off again.
mosa.peft.detach(both)

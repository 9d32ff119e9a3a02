"""MoSA with a training loop of your own: attach, train, merge, save.

Run `python examples/mosa_own_loop.py`: the digits of scikit-learn, which has to be installed, on the small
pre-trained ViT of this package, in seconds, without a download.
"""

import mosa.peft  # before timm, if a CPU-only torch is installed with PyPI's torchvision
import torch
from mosa.backbones.build import build_backbone
from sklearn.datasets import load_digits

# Yours: images (n, 3, height, width), labels (n,), and a backbone: timm.create_model(..., pretrained=True).
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).div(8).sub(1)[:, None].expand(-1, 3, -1, -1)
images = torch.nn.functional.interpolate(images, size=32, mode="bilinear")
labels = torch.tensor(digits.target)
train = torch.utils.data.TensorDataset(images[:768], labels[:768])
torch.manual_seed(0)
model, _ = build_backbone("mosa_vit_micro", "builtin", num_classes=10)

mosa.peft.attach(model, "mosa", bottleneck=16, experts=4)
print(mosa.peft.count_parameters(model))

optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
model.train()
for epoch in range(5):
    losses = []
    for batch, target in torch.utils.data.DataLoader(train, batch_size=32, shuffle=True):
        loss = mosa.peft.tuning_loss(model, batch, target)  # two passes with other experts, in one forward
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch + 1}: loss {sum(losses) / len(losses):.3f}")

mosa.peft.merge(model.eval())  # a plain adapter from here on
with torch.inference_mode():
    correct = model(images[1500:]).argmax(1) == labels[1500:]
print(f"top-1 on {len(correct)} other images: {100 * correct.float().mean():.1f} %")
mosa.peft.save_pretrained(model, "digits.safetensors", label_names=list("0123456789"))

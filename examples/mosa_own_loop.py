"""MoSA with a training loop of your own: attach, train, merge, save.

Run `python examples/mosa_own_loop.py`: the digits of scikit-learn, which has to be installed, on a small ViT,
in seconds, without a download.
"""

import mosa.peft  # before timm, if a CPU-only torch is installed with PyPI's torchvision
import timm
import torch
from sklearn.datasets import load_digits

# Yours: images (n, 3, height, width), labels (n,), and a pretrained backbone (pretrained=True).
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).div(8).sub(1)[:, None].expand(-1, 3, -1, -1)
labels = torch.tensor(digits.target)
train = torch.utils.data.TensorDataset(images[:384], labels[:384])
torch.manual_seed(0)
model = timm.create_model(
    "vit_tiny_patch16_224", img_size=8, patch_size=2, depth=2, embed_dim=48, num_heads=3, num_classes=10
)

mosa.peft.attach(model, "mosa", bottleneck=16, experts=4)
print(mosa.peft.count_parameters(model))

optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
model.train()
for epoch in range(3):
    for batch, target in torch.utils.data.DataLoader(train, batch_size=64, shuffle=True):
        loss = mosa.peft.tuning_loss(model, batch, target)  # two passes with other experts, in one forward
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}")

mosa.peft.merge(model.eval())  # a plain adapter from here on
with torch.inference_mode():
    correct = model(images[384:640]).argmax(1) == labels[384:640]
print(f"top-1 on 256 other images: {100 * correct.float().mean():.1f} %")
mosa.peft.save_pretrained(model, "digits.safetensors", label_names=list("0123456789"))

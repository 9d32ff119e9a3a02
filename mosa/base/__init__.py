"""What every other package stands on: errors, files, seeds, and the doors to timm and torchvision."""

"""What every other package uses: errors, files, seeds, families, and the imports of timm and torchvision."""

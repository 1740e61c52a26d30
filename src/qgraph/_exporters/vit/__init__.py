"""Image classifiers: ViT, DeiT, Swin, DINOv2 with a head, ResNet and their like."""

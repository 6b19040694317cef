"""Building the networks of each kind beside timm's and CIFAR's."""

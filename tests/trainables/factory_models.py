"""Model factories as a user of the product writes them."""

from torch import nn


def tiny(in_channels: int, classes: int, hidden: int = 16) -> nn.Module:
    """Two convolutions with a skip."""
    return Skip(in_channels, hidden, classes)


def not_a_model(in_channels: int) -> int:
    """Return something else."""
    return in_channels


class Skip(nn.Module):
    """A residual block between a stem and a head."""

    def __init__(self, in_channels: int, hidden: int, classes: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
        )
        self.body = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        )
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(hidden, classes)

    def forward(self, images):
        features = self.stem(images)
        features = self.relu(features + self.body(features))
        return self.head(self.pool(features).flatten(1))

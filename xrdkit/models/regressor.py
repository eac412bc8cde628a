"""A point of the latent space -> the pattern that it says: PXRDnet's regressor."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from xrdkit.nanocrystal import POINTS

LATENT = 256  # width of z
FOLD, CHANNELS, DENSE = 16, 16, 4  # points, channels and layers of the dense block


class Regressor(nn.Module):
    """z -> the pattern of a large crystal on ``nano_grid``, by a DenseNet in one dimension.

    Linear layers make 512 points, which the dense block sharpens (Figure 8 of the paper),
    here of convolutions over three neighbours of ``FOLD`` points each, which is faster.
    """

    def __init__(self, hidden: int = 384) -> None:
        super().__init__()
        self.points = nn.Sequential(
            nn.Linear(LATENT, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, POINTS),
        )
        self.first = nn.Conv1d(FOLD, CHANNELS, 3, padding=1)
        self.dense = nn.ModuleList(
            nn.Conv1d(CHANNELS * (i + 1), CHANNELS, 3, padding=1) for i in range(DENSE)
        )
        self.last = nn.Conv1d(CHANNELS * (DENSE + 1), FOLD, 3, padding=1)
        nn.init.constant_(self.last.bias, -2.0)  # most of a pattern is near zero

    def forward(self, z: Float[Tensor, "starts 256"]) -> Float[Tensor, "starts 512"]:
        """Intensities between 0 and 1."""
        signal = self.points(z)
        found = self.first(signal.unflatten(1, (-1, FOLD)).mT)
        for layer in self.dense:
            found = torch.cat([found, functional.silu(layer(found))], 1)
        return (signal + self.last(found).mT.flatten(1)).float().sigmoid()

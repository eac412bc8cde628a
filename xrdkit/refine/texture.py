"""One preferred-orientation axis for refined candidates: March–Dollase, tried on a grid."""

from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from xrdkit.refine.block import Block, current_lattice
from xrdkit.scattering import march_dollase
from xrdkit.space_group import CENTRING, centring_letter
from xrdkit.types import Candidate

AXES = ((0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
RATIOS = (0.55, 0.7, 0.85, 1.2, 1.5, 1.9)  # r of March and Dollase
CHOICES = tuple(product(AXES, RATIOS))


def orientation_factors(
    block: Block, i: int, candidate: Candidate
) -> Float[Tensor, "choices lines"]:
    """Mean March–Dollase factor over equivalent reflections for every axis and ratio.

    Axes are indexed in the standard conventional cell.
    """
    rows = CENTRING[centring_letter(candidate.symmetry.number)]
    reciprocal = torch.linalg.inv(current_lattice(block)[i]).mT
    rotations = candidate.symmetry.rotations.to(block.hkl)
    equivalent = torch.einsum("ri,gij->rgj", block.hkl[i], rotations)
    axes = {axis: tuple((rows @ np.array(axis)).tolist()) for axis in AXES}
    return torch.stack(
        [march_dollase(equivalent, reciprocal, axes[a], r).mean(-1) for a, r in CHOICES]
    )

"""What a refined structure lacks or has too much of, as a difference map.

Observed structure factors are those into which the model itself partitions the profile,
and phases are the model's: the map is biased toward it, and no more than a hint.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from xrdkit.density import POINTS, DensityGrid, synthesis
from xrdkit.scattering import reflections
from xrdkit.simulate import structure_factors
from xrdkit.types import Fit

BIASED = "F_obs as the model partitions it, φ_calc: biased toward the model"


def difference_map(fit: Fit, points: int = POINTS) -> DensityGrid:
    """Σ (|F_o| - |F_c|) exp(iφ_c) exp(-2πi h·x) / V of the first phase, e/Å³.

    At i / ``points`` along each axis of the conventional cell. Peaks stand where electrons
    are missing in the model, holes where it has too many. ``fit`` is of engine "builtin".
    """
    if fit.factors is None:
        raise ValueError(
            f"engine '{fit.engine}' gives no structure factors; refine with the builtin one"
        )
    phase, factors = fit.phases[0], torch.as_tensor(fit.factors)
    lattice = phase.crystal.lattice
    reciprocal = torch.linalg.inv(lattice[0].double()).mT
    highest = 2 * torch.pi * (factors[:, :3] @ reciprocal).norm(dim=-1).max()
    sphere = reflections(phase.crystal, float(highest) * (1 + 1e-6))
    model = structure_factors(
        phase.crystal, sphere, fit.radiation.main, anomalous=False
    ).to(torch.complex128)
    excess = _spread(sphere.hkl[0], factors, phase.symmetry.rotations)
    terms = 2 * excess * torch.exp(1j * model.angle()) / torch.linalg.det(lattice[0]).abs()
    grid = synthesis(sphere.hkl, terms * (sphere.multiplicity > 0), points)
    return DensityGrid(lattice[0].double().numpy(), grid[0].numpy())


def _spread(
    hkl: Int[torch.Tensor, "terms 3"],
    factors: Float[torch.Tensor, "reflections 5"],
    rotations: Int[torch.Tensor, "operations 3 3"],
) -> Float[torch.Tensor, " terms"]:
    """|F_o| - |F_c| of unique reflections, given to all their equivalents; else zero."""
    unique, own = factors[:, :3].numpy(), (factors[:, 3] - factors[:, 4]).numpy()
    images = np.einsum("ri,gij->grj", unique, rotations.numpy()).round().astype(int)
    found = {
        tuple(sign * index): value
        for turned in images
        for index, value in zip(turned, own, strict=True)
        for sign in (1, -1)
    }
    return torch.tensor([found.get(tuple(index), 0.0) for index in hkl.tolist()]).double()

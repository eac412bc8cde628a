"""Cells as six numbers that suit a network: log edges per atom, and angles.

y = ((ln a_i - ln N / 3 - mean) / spread, (angle - 87°) / spread), i = a, b, c: N atoms, so
that one scale serves cells of every size. Means and spreads are those of MP-20's Niggli
cells, rounded; they are part of the networks and never change.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EDGE_MEAN = (0.84, 0.97, 1.25)  # of ln(a / Å) - ln N / 3 for a <= b <= c
EDGE_SPREAD = (0.25, 0.22, 0.30)
ANGLE_MEAN, ANGLE_SPREAD = 87.0, 18.0  # degrees


def cell_of(lattice: Float[Tensor, "*crystals 3 3"]) -> Float[Tensor, "*crystals 6"]:
    """a, b, c in Å and α, β, γ in ° of lattice rows."""
    edges = lattice.norm(dim=-1)
    pairs = [(1, 2), (0, 2), (0, 1)]
    cosines = [
        (lattice[..., i, :] * lattice[..., j, :]).sum(-1) / (edges[..., i] * edges[..., j])
        for i, j in pairs
    ]
    angles = torch.rad2deg(torch.stack(cosines, -1).clamp(-1, 1).acos())
    return torch.cat([edges, angles], -1)


def metric_of(cell: Float[Tensor, "*crystals 6"]) -> Float[Tensor, "*crystals 3 3"]:
    """Metric tensor L Lᵀ in Å² of a, b, c (Å) and α, β, γ (°)."""
    edges, cosines = cell[..., :3], torch.deg2rad(cell[..., 3:]).cos()
    one = torch.ones_like(cosines[..., 0])
    alpha, beta, gamma = cosines.unbind(-1)
    rows = [one, gamma, beta, gamma, one, alpha, beta, alpha, one]
    unit = torch.stack(rows, -1).reshape(*cell.shape[:-1], 3, 3)
    return unit * edges[..., None] * edges[..., None, :]


def lattice_of(cell: Float[Tensor, "*crystals 6"]) -> Float[Tensor, "*crystals 3 3"]:
    """Lattice rows in Å of a, b, c (Å) and α, β, γ (°): a along x, b in the xy plane.

    Angles that enclose no volume give a flat cell of 1e-3 of the height that it could have.
    """
    a, b, c = cell[..., :3].unbind(-1)
    alpha, beta, gamma = torch.deg2rad(cell[..., 3:]).unbind(-1)
    x = beta.cos()
    y = (alpha.cos() - beta.cos() * gamma.cos()) / gamma.sin()
    z = (1 - x**2 - y**2).clamp(min=1e-6).sqrt()
    none = torch.zeros_like(a)
    rows = [a, none, none, b * gamma.cos(), b * gamma.sin(), none, c * x, c * y, c * z]
    return torch.stack(rows, -1).reshape(*cell.shape[:-1], 3, 3)


def encoded(cell: Float[Tensor, "*crystals 6"], atoms: int) -> Float[Tensor, "*crystals 6"]:
    """The six numbers of a cell (Å, °) of so many atoms."""
    edges = cell[..., :3].log() - math.log(atoms) / 3
    edges = (edges - edges.new_tensor(EDGE_MEAN)) / edges.new_tensor(EDGE_SPREAD)
    return torch.cat([edges, (cell[..., 3:] - ANGLE_MEAN) / ANGLE_SPREAD], -1)


def decoded(y: Float[Tensor, "*crystals 6"], atoms: int) -> Float[Tensor, "*crystals 6"]:
    """The cell in Å and ° of the six numbers; angles are held within 20–160°."""
    edges = y[..., :3] * y.new_tensor(EDGE_SPREAD) + y.new_tensor(EDGE_MEAN)
    edges = (edges + math.log(atoms) / 3).exp()
    angles = (y[..., 3:] * ANGLE_SPREAD + ANGLE_MEAN).clamp(20, 160)
    return torch.cat([edges, angles], -1)

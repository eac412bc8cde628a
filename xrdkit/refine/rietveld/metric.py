"""Cell parameters -> metric tensor, spacings, and their derivatives; e.s.d.s by J V Jᵀ."""

import numpy as np
from jaxtyping import Float, Int

CELL = ("a", "b", "c", "alpha", "beta", "gamma")
Cell = Float[np.ndarray, "6"]  # a, b, c in Å and α, β, γ in °


def metric(cell: Cell) -> Float[np.ndarray, "3 3"]:
    """Metric tensor G (Å²) of a, b, c, α, β, γ: G_ij = a_i · a_j."""
    lengths, cosines = cell[:3], np.cos(np.radians(cell[3:]))
    alpha, beta, gamma = cosines
    angles = np.array([[1, gamma, beta], [gamma, 1, alpha], [beta, alpha, 1]])
    return np.outer(lengths, lengths) * angles


def metric_derivatives(cell: Cell) -> Float[np.ndarray, "6 3 3"]:
    """∂G/∂(a, b, c, α, β, γ), angles in degrees."""
    g, slopes = metric(cell), np.zeros((6, 3, 3))
    for i in range(3):
        slopes[i, i] += g[i] / cell[i]
        slopes[i, :, i] += g[i] / cell[i]
    for k, (i, j) in enumerate([(1, 2), (0, 2), (0, 1)]):
        slope = -np.radians(1) * np.sin(np.radians(cell[3 + k])) * cell[i] * cell[j]
        slopes[3 + k, i, j] = slopes[3 + k, j, i] = slope
    return slopes


def possible(cell: Cell) -> bool:
    """Whether six numbers are a cell: positive lengths, a positive volume."""
    finite = np.isfinite(cell).all() and (cell > 0).all() and (cell[3:] < 180).all()
    return bool(finite and np.linalg.det(metric(cell)) > 1e-3 * cell[:3].prod() ** 2)


def volume(cell: Cell) -> float:
    """Cell volume in Å³."""
    return float(np.sqrt(np.linalg.det(metric(cell))))


def volume_derivatives(cell: Cell) -> Cell:
    """∂V/∂(a, b, c, α, β, γ): V/2 tr(G⁻¹ ∂G)."""
    inverse = np.linalg.inv(metric(cell))
    return volume(cell) / 2 * np.einsum("ij,kji->k", inverse, metric_derivatives(cell))


def inverse_d_squared(
    hkl: Int[np.ndarray, "reflections 3"], cell: Cell
) -> tuple[Float[np.ndarray, " reflections"], Float[np.ndarray, "reflections 6"]]:
    """1/d² in Å⁻² and its derivatives: h G⁻¹ h and -(G⁻¹h) ∂G (G⁻¹h)."""
    vectors = hkl @ np.linalg.inv(metric(cell))
    slopes = -np.einsum("ri,kij,rj->rk", vectors, metric_derivatives(cell), vectors)
    return (vectors * hkl).sum(1), slopes


def lattice_rows(cell: Cell) -> Float[np.ndarray, "3 3"]:
    """Lattice rows a, b, c in Å, lower triangular."""
    return np.linalg.cholesky(metric(cell))

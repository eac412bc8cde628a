"""Templates and patterns as spectra over ln(q v^⅓), v the volume per atom.

With S_k(h) the geometric sum over the atoms of slot k, |F|² = Σ_kl f_k f_l Re(S_k S_l*).
So a member of a library is kept as pair spectra P_kl(x) = Σ_h Re(S_k S_l*) δ(x - x_h) with
x_h = ln(q_h v^⅓), and every substitution is a weighted sum of them. On this axis an unknown
scale is a shift.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from xrdkit.library import Library
from xrdkit.pattern import inside_ranges
from xrdkit.scattering import half_spheres
from xrdkit.types import Pattern

X_MIN, X_STEP, BINS = -0.3, 0.007, 448  # q from 0.28 to 6.5 /Å at 18 Å³ an atom
SHIFTS = 18  # ± bins: ± 38 % in volume
BLUR = 1.5  # bins (standard deviation): axial ratios may be wrong by a per cent or two
CHUNK = 4_000_000  # phases at once


@dataclass(frozen=True)
class Group:
    """All members of a library with the same slot counts, scaled to one Å³ an atom.

    Atoms are sorted by slot. ``spectra`` are pair spectra, k <= l row-major, float16.
    """

    counts: tuple[int, ...]
    rows: Int[np.ndarray, " members"]
    spectra: Float[Tensor, "members pairs bins"]


def slot_counts(library: Library) -> list[tuple[tuple[int, ...], Int[np.ndarray, " rows"]]]:
    """The distinct slot counts of all members (ascending), each with its members."""
    if "slot_counts" not in library.cache:
        owner = np.repeat(np.arange(len(library.kind)), library.counts)
        table = np.zeros(library.elements.shape, np.int64)
        np.add.at(table, (owner, library.slot), 1)
        kinds, inverse = np.unique(table, axis=0, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
        library.cache["slot_counts"] = [
            (tuple(int(n) for n in kind if n), part)
            for kind, part in zip(kinds, parts, strict=True)
        ]
    return library.cache["slot_counts"]


def group_of(
    library: Library, counts: tuple[int, ...], rows: Int[np.ndarray, " rows"]
) -> Group:
    """Pair spectra of the members with these slot counts, computed once per library."""
    if counts not in library.cache:
        library.cache[counts] = Group(counts, rows, pair_spectra(library, counts, rows))
    return library.cache[counts]


def pair_spectra(
    library: Library, counts: tuple[int, ...], rows: Int[np.ndarray, " rows"]
) -> Float[Tensor, "members pairs bins"]:
    """P_kl on the ln(q v^⅓) axis, blurred, for members of equal slot counts."""
    n, slots = sum(counts), len(counts)
    atoms = library.start[rows][:, None] + np.arange(n)
    atoms = np.take_along_axis(
        atoms, np.argsort(library.slot[atoms], axis=1, kind="stable"), 1
    )
    frac = torch.from_numpy(library.frac[atoms])
    lattice = torch.from_numpy(library.lattice[rows])
    lattice = lattice * (n / torch.linalg.det(lattice).abs())[:, None, None] ** (1 / 3)
    out = torch.empty(len(rows), slots * (slots + 1) // 2, BINS, dtype=torch.float16)
    size = max(1, CHUNK // (45 * n * n))
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        out[part] = _spectra(lattice[part], frac[part], counts)
    return out


def _spectra(
    lattice: Float[Tensor, "members 3 3"],
    frac: Float[Tensor, "members atoms 3"],
    counts: tuple[int, ...],
) -> Float[Tensor, "members pairs bins"]:
    hkl, owner = half_spheres(lattice, float(np.exp(X_MIN + X_STEP * BINS)))
    reciprocal = torch.linalg.inv(lattice).mT
    hkl = hkl.float()
    g = torch.einsum("ri,rij->rj", hkl, reciprocal[owner]).norm(dim=-1)
    place = (torch.log(2 * torch.pi * g) - X_MIN) / X_STEP
    phase = 2 * torch.pi * torch.einsum("ri,rai->ra", hkl, frac[owner])
    ends = np.cumsum(counts)
    cos = [t.sum(-1) for t in torch.split(torch.cos(phase), list(counts), dim=-1)]
    sin = [t.sum(-1) for t in torch.split(torch.sin(phase), list(counts), dim=-1)]
    pairs = [
        (cos[k] * cos[m] + sin[k] * sin[m]) * (1 if k == m else 2)
        for k in range(len(counts))
        for m in range(k, len(counts))
    ]
    values = torch.stack(pairs, -1) / float(ends[-1]) ** 2
    base = torch.floor(place)
    values = values * ((base >= -1) & (base < BINS))[:, None]
    part = (place - base)[:, None]
    out = torch.zeros(len(lattice) * (BINS + 2), len(pairs))
    index = owner * (BINS + 2) + (base.long() + 1).clamp(0, BINS)
    out.index_add_(0, index, values * (1 - part))
    out.index_add_(0, index + 1, values * part)
    out = out.reshape(len(lattice), BINS + 2, -1)[:, 1:-1].mT
    return _blur(out)


def _blur(values: Float[Tensor, "*rows bins"]) -> Float[Tensor, "*rows bins"]:
    """Gaussian of BLUR bins along the last axis."""
    reach = int(4 * BLUR)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / BLUR) ** 2)
    flat = values.reshape(-1, 1, values.shape[-1])
    out = torch.nn.functional.conv1d(
        flat, (kernel / kernel.sum())[None, None], padding=reach
    )
    return out.reshape(values.shape)


def observed_spectrum(
    pattern: Pattern, volume: float
) -> tuple[Float[Tensor, "shifts bins"], Float[Tensor, "shifts bins"]]:
    """√area of a prepared pattern per bin for every shift, and where it was observed.

    ``volume`` is the expected volume per atom in Å³.
    """
    edges = X_MIN + X_STEP * (np.arange(-SHIFTS, BINS + SHIFTS + 1) - 0.5)
    x = np.log(pattern.q) + np.log(volume) / 3
    trapezia = (
        np.diff(pattern.two_theta) * (pattern.intensity[1:] + pattern.intensity[:-1]) / 2
    )
    area = np.diff(np.interp(edges, x, np.concatenate([[0], np.cumsum(trapezia)])))
    centres = np.interp((edges[1:] + edges[:-1]) / 2, x, pattern.two_theta)
    seen = (edges[1:] > x[0]) & (edges[:-1] < x[-1]) & inside_ranges(pattern, centres)
    root = _blur(torch.tensor(area, dtype=torch.float32).clamp_min(0)).sqrt()
    mask = torch.tensor(seen, dtype=torch.float32)
    return (root * mask).unfold(0, BINS, 1), mask.unfold(0, BINS, 1)


def nano_shares(
    q: Float[Tensor, " bins"], size: float, fwhm: float
) -> Float[Tensor, "bins bins"]:
    """Shares of each bin that the lines of nanocrystals lend to others; rows sum to one.

    Lines are sinc²(Q size / 2), with a Gaussian beside. ``q`` (1/Å) are the centres of the
    bins, ``size`` is in Å, ``fwhm`` (1/Å) the width beside that of size.
    """
    apart = q - q[:, None]
    sinc = torch.sinc(apart * size / (2 * torch.pi)) ** 2 * q
    beside = torch.exp2(-4 * (apart / fwhm) ** 2) * q
    return (sinc / sinc.sum(1, keepdim=True)) @ (beside / beside.sum(1, keepdim=True))

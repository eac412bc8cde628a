"""Known structure types with other elements: every assignment is compared with the pattern.

A substitution changes only the scattering factors: with S_k(h) the geometric sum over the
atoms of slot k, |F|² = Σ_kl f_k f_l Re(S_k S_l*). So each member stores pair spectra
P_kl(x) = Σ_h Re(S_k S_l*) δ(x - ln(q v^⅓)), v the volume per atom. A pattern on the same
axis differs from its template by a shift only, as long as axial ratios are right.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xrdkit.cell import lattice_of, onto_cell
from xrdkit.crystal import U_ISO, one_crystal, operations, orbits, symmetry_of
from xrdkit.generators.assign import Filling, decorations, fillings
from xrdkit.library import Library, expected_volume, mendeleev_numbers
from xrdkit.pattern import inside_ranges
from xrdkit.scattering import dispersion, form_factors, half_spheres, lorentz_polarisation
from xrdkit.types import Candidate, Pattern, Problem, Progress

X_MIN, X_STEP, BINS = (
    -0.3,
    0.007,
    448,
)  # ln(q v^⅓): q about 0.28 to 6.5 /Å for 18 Å³ an atom
SHIFTS = 18  # ± bins: ± 38 % in volume
VOLUME_SPREAD, FAR = 0.12, 0.01  # ln V is known to ± 0.12; similarity lost at that distance
BLUR = 1.5  # bins (standard deviation): axial ratios may be wrong by a per cent or two
CHUNK = 4_000_000  # phases at once
MIXED = 24  # fillings of a type of other species number, beyond which it is left out
OTHER = 2.0  # lost in the prior by fillings that merge or divide species
COMMON, CHEMISTRY = 0.5, 0.1  # weights in the prior: ln members, Mendeleev distance
TRIES = 3000  # hits compared with a given cell
ALIKE = 3  # hits kept of one type and one assignment


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


@dataclass(frozen=True)
class Hits:
    """Substitutions and how well they fit: library rows, elements by slot, Å³ an atom."""

    row: Int[np.ndarray, " hits"]
    filling: list[Filling]
    volume: Float[np.ndarray, " hits"]
    similarity: Float[np.ndarray, " hits"]

    @property
    def shared(self) -> Bool[np.ndarray, " hits"]:
        """Whether several elements share a slot and are still to be ordered."""
        return np.array([any(len(group) > 1 for group in f) for f in self.filling], bool)


@dataclass(frozen=True)
class Search:
    """What is the same for all templates: √areas and mask by shift, q of the bins, LP."""

    observed: Float[Tensor, "shifts bins"]
    mask: Float[Tensor, "shifts bins"]
    s2: Float[Tensor, " bins"]
    lp: Float[Tensor, " bins"]
    wavelength: float
    volume: float


def search_of(pattern: Pattern, volume: float) -> Search:
    """The search for structures of about this volume per atom (Å³) in a pattern."""
    beam = pattern.radiation
    q = torch.exp(X_MIN + X_STEP * torch.arange(BINS)) / volume ** (1 / 3)
    sine = (q * beam.main / (4 * torch.pi)).clamp(max=0.999)
    lp = lorentz_polarisation(torch.rad2deg(2 * torch.asin(sine)), beam.polarisation)
    observed, mask = observed_spectrum(pattern, volume)
    return Search(observed, mask, (q / (4 * torch.pi)) ** 2, lp, beam.main, volume)


def slot_factors(
    filling: Filling, counts: tuple[int, ...], contents: dict[int, int], search: Search
) -> Float[Tensor, "slots bins"]:
    """Scattering factor of each slot, the mean where several elements share it."""
    rows = []
    for group, count in zip(filling, counts, strict=True):
        numbers = torch.tensor(group)
        f = form_factors(numbers, search.s2)
        f = f + dispersion(numbers, search.wavelength).real.to(f)[:, None]
        share = [contents[z] / count if len(group) > 1 else 1.0 for z in group]
        rows.append(f.new_tensor(share) @ f)
    return torch.stack(rows) * torch.exp(-8 * torch.pi**2 * U_ISO * search.s2)


def screen(
    spectra: Float[Tensor, "members pairs bins"],
    factors: Float[Tensor, "slots bins"],
    search: Search,
) -> tuple[Float[Tensor, " members"], Float[Tensor, " members"]]:
    """Best similarity over all scales, and ln of the scale's factor on q."""
    k, m = torch.triu_indices(len(factors), len(factors))
    products = factors[k] * factors[m] * search.lp
    model = torch.einsum("mpx,px->mx", spectra.float(), products).clamp_min(0)
    norm = (model @ search.mask.T).clamp_min(1e-20).sqrt()
    norm = norm * search.observed.norm(dim=1).clamp_min(1e-20)
    away = 3 * X_STEP * torch.arange(-SHIFTS, SHIFTS + 1) / VOLUME_SPREAD
    similarity = model.sqrt() @ search.observed.T / norm - FAR * away**2
    best, shift = similarity.max(-1)
    return best, (shift - SHIFTS) * X_STEP


def hits_of(problem: Problem) -> Iterator[Hits]:
    """For every slot count of the library that fits the formula: all its substitutions."""
    library: Library = problem.library
    formula = numbered(problem.formula)
    atoms = sum(formula.values())
    search = search_of(problem.pattern, expected_volume(library, formula))
    allowed = np.zeros(len(library.kind), bool)
    allowed[library.rows] = True
    if problem.space_group:
        allowed &= library.space_group == problem.space_group
    sizes = allowed_sizes(problem, search.volume)
    for counts, rows in slot_counts(library):
        z, rest = divmod(sum(counts), atoms)
        if rest or (sizes and sum(counts) not in sizes) or not allowed[rows].any():
            continue
        contents = {e: n * z for e, n in formula.items()}
        choices = fillings(counts, contents)
        if not choices or (len(choices) > MIXED and len(counts) != len(formula)):
            continue
        used = np.nonzero(allowed[rows])[0]
        spectra = group_of(library, counts, rows).spectra[used]
        for filling in choices:
            factors = slot_factors(filling, counts, contents, search)
            best, shift = screen(spectra, factors, search)
            volume = search.volume * np.exp(-3 * shift.numpy())
            yield Hits(rows[used], [filling] * len(used), volume, best.numpy())


def numbered(formula: dict[str, float]) -> dict[int, int]:
    """Counts by atomic number of counts by symbol."""
    from pymatgen.core import Element

    return {Element(e).Z: round(n) for e, n in formula.items()}


def allowed_sizes(problem: Problem, volume: float) -> set[int]:
    """Atoms that the primitive cell may hold; an empty set means any number.

    Contents of a given cell may be those of a centred one: a half, third or quarter of them
    is the primitive cell's. Without contents the expected volume per atom decides.
    """
    total = round(sum(problem.contents.values())) if problem.contents else None
    if not problem.cells:
        return {total} if total else set()
    if total:
        return {total // n for n in (1, 2, 3, 4) if total % n == 0}
    atoms = round(sum(problem.formula.values()))
    sizes = set()
    for cell, _ in problem.cells:
        inside = abs(np.linalg.det(lattice_of(cell))) / volume
        for n in (1, 2, 3, 4):
            low, high = inside / n / 1.4, inside / n * 1.4
            sizes |= {k for k in range(atoms, int(high) + 1, atoms) if k >= low}
    return sizes or {0}


def propose(
    problem: Problem, *, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Progress]:
    """The substitutions that look most like the pattern; returns ``count`` candidates.

    Half as many more may come from types whose slots several elements share.
    """
    started = time.monotonic()
    parts = list(hits_of(problem))
    if not parts:
        return []
    hits = Hits(
        np.concatenate([p.row for p in parts]),
        [f for p in parts for f in p.filling],
        np.concatenate([p.volume for p in parts]),
        np.concatenate([p.similarity for p in parts]),
    )
    found: list[Candidate] = []
    for shared, wanted in ((False, count), (True, count // 2)):
        chosen = np.nonzero(hits.shared == shared)[0]
        enough = len(found) + wanted
        for i in varied(problem.library, hits, chosen, TRIES if problem.cells else wanted):
            found = [*found, *candidates(problem, hits, i)][:enough]
            if len(found) == enough:
                break
            spent = time.monotonic() - started
            yield Progress("templates", len(found), 3 * count // 2, seconds=spent)
    return found


def varied(
    library: Library, hits: Hits, chosen: Int[np.ndarray, " chosen"], count: int
) -> list[int]:
    """The most similar of the chosen hits, at most ALIKE of one type and one filling."""
    order = chosen[np.argsort(-hits.similarity[chosen], kind="stable")]
    seen: dict[tuple, int] = {}
    best = []
    for i in order.tolist():
        key = (int(library.kind[hits.row[i]]), hits.filling[i])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= ALIKE:
            best.append(i)
            if len(best) == count:
                break
    return best


def candidates(problem: Problem, hits: Hits, i: int) -> list[Candidate]:
    """One hit as crystals with their symmetry: every ordering, every way onto the cells."""
    library: Library = problem.library
    row, filling = int(hits.row[i]), hits.filling[i]
    atoms, number = library.atoms(row), int(library.space_group[row])
    slot, frac = library.slot[atoms], library.frac[atoms].astype(float)
    lattice = library.lattice[row].astype(float)
    lattice *= (hits.volume[i] * len(frac) / abs(np.linalg.det(lattice))) ** (1 / 3)
    lattices = [lattice]
    if problem.cells:
        lattices = [
            m for cell, _ in problem.cells for m in onto_cell(lattice, number, cell)
        ]
    z = len(frac) // sum(numbered(problem.formula).values())
    contents = {e: n * z for e, n in numbered(problem.formula).items()}
    orbit = orbits(*operations(number), frac, slot)
    orderings = decorations(filling, slot, orbit, contents)
    kind = int(library.kind[row])
    members = int(library.type_size[kind])
    origin = f"{library.type_label[kind]}, {members} member{'s' if members > 1 else ''}"
    if len(filling) < len(contents):
        origin += ", ordered"
    prior = log_prior(library, row, filling)
    return [
        Candidate(
            one_crystal(changed, frac, numbers),
            symmetry_of(number, changed, frac, numbers),
            origin,
            prior,
        )
        for changed in lattices
        for numbers in orderings
    ]


def log_prior(library: Library, row: int, filling: Filling) -> float:
    """How plausible a substitution is before the pattern is seen (natural log).

    Types with many members are likelier. Less likely are elements that are chemically far
    (in Mendeleev numbers, a mean over the atoms) from those of the nearest member of the
    type, and fillings of types with another number of species.
    """
    kind = library.kind[row]
    alike = library.rows[library.kind[library.rows] == kind]
    slots = len(filling)
    scale = mendeleev_numbers()
    wanted = np.array([scale[list(group)].mean() for group in filling])
    counts = np.bincount(library.slot[library.atoms(row)], minlength=slots)
    distance = np.abs(library.nature[alike, :slots] - wanted) @ counts / counts.sum()
    far = float(distance.min()) if len(alike) else 50.0
    elements = {z for group in filling for z in group}
    other = slots != len(elements)
    size = float(np.log(library.type_size[kind]))
    return COMMON * size - CHEMISTRY * far - OTHER * other

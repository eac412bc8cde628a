"""Known structure types with other elements: every assignment is compared with the pattern.

A substitution changes only scattering factors, so it is a weighted sum of a template's pair
spectra; a pattern on the same logarithmic axis differs from it by a shift, as long as axial
ratios are about right. The most similar become candidates for refinement.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from xrdkit.cell import lattice_of, onto_cell
from xrdkit.crystal import U_ISO, one_crystal, orbits, symmetry_of
from xrdkit.generators.assign import Filling, decorations, fillings
from xrdkit.generators.spectra import (
    BINS,
    SHIFTS,
    X_MIN,
    X_STEP,
    group_of,
    nano_shares,
    observed_spectrum,
    slot_counts,
)
from xrdkit.library import Library, expected_volume, mendeleev_numbers, type_swelling
from xrdkit.peaks import typical_fwhm
from xrdkit.phases import known_types, reduced_name, without_phases
from xrdkit.problem import by_number, whole
from xrdkit.scattering import dispersion, form_factors, lorentz_polarisation
from xrdkit.space_group import operations
from xrdkit.types import Candidate, Pattern, Problem, Progress

VOLUME_SPREAD, FAR = 0.12, 0.01  # ln V is known to ± 0.12; similarity lost at that distance
MIXED = 24  # fillings of a type of other species number, beyond which it is left out
MERGED = 2  # species more than the formula has elements, at most
KNOWN = 2.0  # gained in the prior by a compound that the library has in this type
OTHER = 2.0  # lost in the prior by fillings that merge or divide species
COMMON, CHEMISTRY = 0.5, 0.1  # weights in the prior: ln members, Mendeleev distance
NEAR, PROPOSED = 0.2, 2  # ln of the volume off, of a proposed cell; such cells of one hit
TRIES = 3000  # hits compared with a given cell
ALIKE = 3  # hits kept of one type and one assignment


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
    """What is the same for all templates: √areas and mask by shift, q of the bins, LP.

    ``wide`` is how the lines of nanocrystals lie over the bins.
    """

    observed: Float[Tensor, "shifts bins"]
    mask: Float[Tensor, "shifts bins"]
    s2: Float[Tensor, " bins"]
    lp: Float[Tensor, " bins"]
    wavelength: float
    volume: float
    wide: Float[Tensor, "bins bins"] | None = None


def search_of(pattern: Pattern, volume: float) -> Search:
    """The search for structures of about this volume per atom (Å³) in a pattern."""
    beam = pattern.radiation
    q = torch.exp(X_MIN + X_STEP * torch.arange(BINS)) / volume ** (1 / 3)
    sine = (q * beam.main / (4 * torch.pi)).clamp(max=0.999)
    lp = lorentz_polarisation(torch.rad2deg(2 * torch.asin(sine)), beam.polarisation)
    observed, mask = observed_spectrum(pattern, volume)
    wide = None
    if pattern.size:
        beside = np.radians(typical_fwhm(pattern)[0]) * 2 * np.pi / beam.main
        wide = nano_shares(q, pattern.size, beside)
    return Search(observed, mask, (q / (4 * torch.pi)) ** 2, lp, beam.main, volume, wide)


def slot_factors(
    filling: Filling,
    counts: tuple[int, ...],
    contents: Mapping[int, float | int],
    search: Search,
) -> Float[Tensor, "slots bins"]:
    """Scattering factor of each slot, the mean where several elements share it.

    Element 0 is a vacancy.
    """
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
    if search.wide is not None:
        model = model @ search.wide
    norm = (model @ search.mask.T).clamp_min(1e-20).sqrt()
    norm = norm * search.observed.norm(dim=1).clamp_min(1e-20)
    away = 3 * X_STEP * torch.arange(-SHIFTS, SHIFTS + 1) / VOLUME_SPREAD
    similarity = model.sqrt() @ search.observed.T / norm - FAR * away**2
    best, shift = similarity.max(-1)
    return best, (shift - SHIFTS) * X_STEP


def hits_of(problem: Problem, volume: float) -> Iterator[Hits]:
    """For every slot count of the library that fits the formula: all its substitutions.

    ``volume`` is expected per atom, in Å³.
    """
    library: Library = problem.library
    formula = numbered(problem.formula)
    atoms = sum(formula.values())
    search = search_of(without_phases(problem.pattern, problem.phases), volume)
    allowed = np.zeros(len(library.kind), bool)
    allowed[library.rows] = True
    if problem.space_group:
        allowed &= library.space_group == problem.space_group
    sizes = allowed_sizes(problem, search.volume)
    for counts, rows in slot_counts(library):
        z, rest = divmod(sum(counts), atoms)
        if rest or (sizes and sum(counts) not in sizes) or not allowed[rows].any():
            continue
        if len(counts) > len(formula) + MERGED:
            continue
        contents = {e: n * z for e, n in formula.items()}
        choices = fillings(counts, contents)
        if not choices or (len(choices) > MIXED and len(counts) != len(formula)):
            continue
        for filling in choices:
            yield compared(library, counts, rows, allowed, filling, contents, search)


def compared(
    library: Library,
    counts: tuple[int, ...],
    rows: Int[np.ndarray, " rows"],
    allowed: Bool[np.ndarray, " members"],
    filling: Filling,
    contents: Mapping[int, float | int],
    search: Search,
) -> Hits:
    """One filling of the allowed members with these slot counts, held against a pattern."""
    used = np.nonzero(allowed[rows])[0]
    spectra = group_of(library, counts, rows).spectra[used]
    best, shift = screen(spectra, slot_factors(filling, counts, contents, search), search)
    volume = search.volume * np.exp(-3 * shift.numpy())
    return Hits(rows[used], [filling] * len(used), volume, best.numpy())


def joined(parts: list[Hits]) -> Hits:
    """Several lists of hits as one."""
    return Hits(
        np.concatenate([p.row for p in parts]),
        [f for p in parts for f in p.filling],
        np.concatenate([p.volume for p in parts]),
        np.concatenate([p.similarity for p in parts]),
    )


def numbered(formula: dict[str, float]) -> dict[int, int]:
    """Whole counts by atomic number of counts by symbol."""
    return {z: round(n) for z, n in by_number(formula).items()}


def allowed_sizes(problem: Problem, volume: float) -> set[int]:
    """Atoms that the primitive cell may hold; an empty set means any number.

    Contents of a given cell may be those of a centred one: a half, third or quarter of them
    is the primitive cell's. Without contents the expected volume per atom decides.
    """
    total = round(sum(problem.contents.values())) if problem.contents else None
    if not problem.given_cells:
        return {total} if total else set()
    if total:
        return {total // n for n in (1, 2, 3, 4) if total % n == 0}
    atoms = round(sum(problem.formula.values()))
    sizes = set()
    for cell in problem.given_cells:
        inside = abs(np.linalg.det(lattice_of(cell))) / volume
        for n in (1, 2, 3, 4):
            low, high = inside / n / 1.4, inside / n * 1.4
            sizes |= {k for k in range(atoms, int(high) + 1, atoms) if k >= low}
    return sizes or {0}


def propose(
    problem: Problem, *, count: int, generator: torch.Generator, device: torch.device
) -> Iterator[Progress]:
    """The substitutions that look most like the pattern; returns ``count`` candidates.

    Half as many more may come from types whose slots several elements share. A formula with
    fractions gets none: templates are ordered.
    """
    if not whole(problem.formula):
        return []
    volume = expected_volume(problem.library, numbered(problem.formula))
    return (yield from substitutions(problem, volume, count))


def substitutions(problem: Problem, volume: float, count: int) -> Iterator[Progress]:
    """Yield progress; return ``count`` candidates, and as many halves with shared slots."""
    started = time.monotonic()
    parts = []
    for part in hits_of(problem, volume):
        parts.append(part)
        spent = time.monotonic() - started
        note = f"{sum(len(p.row) for p in parts)} substitutions compared"
        yield Progress("templates", 0, count, message=note, seconds=spent)
    if not parts:
        return []
    hits = joined(parts)
    known = known_types(problem.library, reduced_name(numbered(problem.formula)))
    tries = TRIES if problem.given_cells else 0
    found: list[Candidate] = []
    for shared, wanted in ((False, count), (True, count // 2)):
        chosen = np.nonzero(hits.shared == shared)[0]
        enough = len(found) + wanted
        for i in varied(problem.library, hits, chosen, max(wanted, tries)):
            found = [*found, *candidates(problem, hits, i, known)][:enough]
            if len(found) == enough:
                break
            spent = time.monotonic() - started
            yield Progress("templates", len(found), 3 * count // 2, seconds=spent)
    return found


def varied(
    library: Library,
    hits: Hits,
    chosen: Int[np.ndarray, " chosen"],
    count: int,
    *,
    alike: int = ALIKE,
) -> list[int]:
    """The most similar of the chosen hits, at most ``alike`` of one type and filling."""
    order = chosen[np.argsort(-hits.similarity[chosen], kind="stable")]
    seen: dict[tuple, int] = {}
    best = []
    for i in order.tolist():
        key = (int(library.kind[hits.row[i]]), hits.filling[i])
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= alike:
            best.append(i)
            if len(best) == count:
                break
    return best


def candidates(
    problem: Problem, hits: Hits, i: int, known: dict[int, str]
) -> list[Candidate]:
    """One hit as crystals with their symmetry: every ordering, every way onto the cells.

    ``known`` are the types in which the library has the formula.
    """
    library: Library = problem.library
    row, filling = int(hits.row[i]), hits.filling[i]
    atoms, number = library.atoms(row), int(library.space_group[row])
    slot, frac = library.slot[atoms], library.frac[atoms].astype(float)
    lattice = library.lattice[row].astype(float)
    lattice *= (hits.volume[i] * len(frac) / abs(np.linalg.det(lattice))) ** (1 / 3)
    z = len(frac) // sum(numbered(problem.formula).values())
    contents = {e: n * z for e, n in numbered(problem.formula).items()}
    orbit = orbits(*operations(number), frac, slot)
    orderings = decorations(filling, slot, orbit, contents)
    kind = int(library.kind[row])
    members = int(library.type_size[kind])
    origin = f"{library.type_label[kind]}, {members} member{'s' if members > 1 else ''}"
    if len(filling) < len(contents):
        origin += ", ordered"
    prior = log_prior(library, row, filling) + KNOWN * (kind in known)
    swelling = type_swelling(library, kind, contents)
    return [
        Candidate(
            one_crystal(changed, frac, numbers),
            symmetry_of(number, changed, frac, numbers),
            origin,
            prior,
            known.get(kind, ""),
            swelling,
        )
        for changed in onto_cells(problem, lattice, number)
        for numbers in orderings
    ]


def onto_cells(
    problem: Problem, lattice: Float[np.ndarray, "3 3"], space_group: int
) -> list[Float[np.ndarray, "3 3"]]:
    """A standard primitive lattice strained onto the given cells.

    Without such, the lattice as it is, and strained onto the proposed cells that are near.
    """
    if problem.given_cells:
        cells = problem.given_cells
        return [m for cell in cells for m in onto_cell(lattice, space_group, cell)]
    size = abs(np.linalg.det(lattice))
    onto = [m for c in problem.proposed_cells for m in onto_cell(lattice, space_group, c)]
    near = [m for m in onto if abs(np.log(abs(np.linalg.det(m)) / size)) < NEAR]
    return [lattice, *near[:PROPOSED]]


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
    wanted = np.array([scale[[z for z in group if z]].mean() for group in filling])
    counts = np.bincount(library.slot[library.atoms(row)], minlength=slots)
    distance = np.abs(library.nature[alike, :slots] - wanted) @ counts / counts.sum()
    far = float(distance.min()) if len(alike) else 50.0
    elements = {z for group in filling for z in group}
    other = slots != len(elements)
    size = float(np.log(max(library.type_size[kind], 1)))
    return COMMON * size - CHEMISTRY * far - OTHER * other

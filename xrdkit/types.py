"""The types that flow from file to answer. Frozen, no input or output, no algorithms.

Conventions everywhere: lengths in Å, angles in degrees, fractional coordinates in [0, 1),
lattice rows a, b, c. A stage never fills in a field of an earlier type; it makes the next.
"""

from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

Verdict = Literal["confident", "tentative", "none"]


def _in_line(value: Any) -> str:
    """Class and fields that differ from their defaults on one line, arrays by shape."""
    shown = [f for f in fields(value) if not _is_default(f, getattr(value, f.name))]
    said = (f"{f.name}={_in_short(getattr(value, f.name))}" for f in shown)
    return f"{type(value).__name__}({', '.join(said)})"


def _is_default(item: Field, value: Any) -> bool:
    made = item.default if item.default_factory is MISSING else item.default_factory()
    return made is value or (isinstance(made, type(value)) and made == value)


def _in_short(value: Any) -> str:
    """An array by shape and range, a nested value by its class, a long one cut."""
    if isinstance(value, np.ndarray | Tensor):
        shape = " × ".join(map(str, value.shape))
        empty = 0 in value.shape or not value.shape
        return shape if empty else f"{shape} from {value.min():.4g} to {value.max():.4g}"
    if is_dataclass(value):
        return f"{type(value).__name__}(…)"
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return f"{len(value)} × {type(value[0]).__name__}"
    if type(value).__name__ == "Structure":
        return f"Structure({value.composition.reduced_formula})"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"


def _in_notebook(value: Any) -> str:
    """The value in short as HTML, which notebooks show."""
    from xrdkit.report.notebook import html_of

    return html_of(value)


@dataclass(frozen=True)
class Radiation:
    """Wavelengths (Å) with weights that sum to one, and how the beam is polarised.

    ``polarisation`` is K in P(2θ) = K + (1 - K) cos²2θ: 0.5 unpolarised (laboratory tube),
    0.95–0.99 synchrotron, 1/(1 + cos²2θ_m) behind a monochromator (graphite, Cu: 0.556).
    ``kalpha2`` is None when a bare number does not say whether Kα2 is present.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    wavelengths: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,)
    polarisation: float = 0.5
    kind: Literal["xray"] = "xray"
    kalpha2: bool | None = False
    name: str = ""

    def __post_init__(self) -> None:
        if len(self.wavelengths) != len(self.weights) or not self.wavelengths:
            raise ValueError(
                f"{len(self.wavelengths)} wavelengths but {len(self.weights)} weights; "
                "give one weight per wavelength"
            )
        for value in self.wavelengths:
            if not 0.05 <= value <= 5:
                raise ValueError(
                    f"wavelength {value:g} Å is outside 0.05–5 Å; "
                    "give it in Å (1 nm = 10 Å, λ = 12.398 / E in keV)"
                )
        if min(self.weights) < 0 or not np.isclose(sum(self.weights), 1):
            raise ValueError(
                f"weights {self.weights} must be positive and sum to 1; "
                "divide each by their sum"
            )
        if not 0 <= self.polarisation <= 1:
            raise ValueError(
                f"polarisation {self.polarisation:g} is outside 0–1; 0.5 is unpolarised"
            )

    @property
    def main(self) -> float:
        """The first (strongest) wavelength in Å."""
        return self.wavelengths[0]


@dataclass(frozen=True)
class Instrument:
    """Geometry and profile: FWHM² = U tan²θ + V tanθ + W (°²) and Y tanθ + X / cosθ (°).

    ``displacement`` (mm) shifts lines by -2 s cosθ / R in Bragg–Brentano geometry and by
    -s cos 2θ / R (along the beam) in Debye–Scherrer geometry; ``radius`` is R in mm.
    Automatic slits light a constant area: intensities are those of fixed slits times sinθ.
    ``overflow`` is the 2θ (°) below which the beam of fixed slits is wider than the sample:
    there intensities fall as sinθ / sin(overflow / 2).
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    geometry: Literal["bragg-brentano", "debye-scherrer"] = "bragg-brentano"
    slits: Literal["fixed", "automatic"] = "fixed"
    radius: float = 200.0
    u: float = 0.0
    v: float = 0.0
    w: float = 0.01
    x: float = 0.0
    y: float = 0.0
    asymmetry: float = 0.0
    zero: float = 0.0
    displacement: float = 0.0
    overflow: float = 0.0


@dataclass(frozen=True)
class Pattern:
    """A powder pattern: intensity over ascending 2θ (°).

    ``sigma`` is None when the numbers are not counts and no e.s.d.s were given: then
    weights are unit weights and R_exp does not exist. ``background`` is what preparing
    subtracted; intensities of a ``prepared`` pattern have their maximum at one. ``size``
    is that (Å) of nanocrystals, whose lines are sinc²(Q size / 2).
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    two_theta: Float[np.ndarray, " points"]
    intensity: Float[np.ndarray, " points"]
    radiation: Radiation
    sigma: Float[np.ndarray, " points"] | None = None
    sigma_source: Literal["counts", "given", "unknown"] = "unknown"
    ranges: tuple[tuple[float, float], ...] = ()
    instrument: Instrument = field(default_factory=Instrument)
    background: Float[np.ndarray, " points"] | None = None
    size: float | None = None
    prepared: bool = False
    name: str = ""
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.two_theta) != len(self.intensity):
            raise ValueError(
                f"{len(self.two_theta)} angles but {len(self.intensity)} intensities; "
                "give one intensity per angle"
            )
        if not self.ranges and len(self.two_theta):
            span = (float(self.two_theta[0]), float(self.two_theta[-1]))
            object.__setattr__(self, "ranges", (span,))

    def __len__(self) -> int:
        return len(self.two_theta)

    @property
    def q(self) -> Float[np.ndarray, " points"]:
        """Scattering vector length 4π sinθ / λ in 1/Å, for the main wavelength."""
        return 4 * np.pi * np.sin(np.radians(self.two_theta / 2)) / self.radiation.main


@dataclass(frozen=True)
class Peaks:
    """Observed lines: 2θ (°), height and area above background, FWHM (°)."""

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    two_theta: Float[np.ndarray, " peaks"]
    height: Float[np.ndarray, " peaks"]
    area: Float[np.ndarray, " peaks"]
    fwhm: Float[np.ndarray, " peaks"]


@dataclass(frozen=True)
class Crystals:
    """A flat batch of crystals: every atom in one row, ``owner`` says whose it is.

    Several species may share a site (same ``frac``, occupancies that sum to at most one).
    ``u_iso`` is the isotropic displacement parameter in Å². Atoms are sorted by owner.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    lattice: Float[Tensor, "crystals 3 3"]
    frac: Float[Tensor, "atoms 3"]
    numbers: Int[Tensor, " atoms"]
    occupancy: Float[Tensor, " atoms"]
    u_iso: Float[Tensor, " atoms"]
    owner: Int[Tensor, " atoms"]

    def __len__(self) -> int:
        return self.lattice.shape[0]

    @property
    def counts(self) -> Int[Tensor, " crystals"]:
        """Number of atom rows of each crystal."""
        return torch.bincount(self.owner, minlength=len(self))

    @property
    def volume(self) -> Float[Tensor, " crystals"]:
        """Cell volume in Å³."""
        return torch.linalg.det(self.lattice).abs()

    def rows(self, index: Int[Tensor, " chosen"]) -> Int[Tensor, " atoms"]:
        """The rows of the atoms of these crystals, one crystal after the other."""
        counts = self.counts
        starts, own = counts.cumsum(0) - counts, counts[index]
        first = (starts[index] - (own.cumsum(0) - own)).repeat_interleave(own)
        return first + torch.arange(len(first), device=first.device)

    def select(self, index: Int[Tensor, " chosen"]) -> "Crystals":
        """The crystals of these indices, in this order (an index may come twice)."""
        rows, own = self.rows(index), self.counts[index]
        return Crystals(
            self.lattice[index],
            self.frac[rows],
            self.numbers[rows],
            self.occupancy[rows],
            self.u_iso[rows],
            torch.arange(len(own), device=own.device).repeat_interleave(own),
        )

    def by_size(self) -> Iterator[tuple[Int[Tensor, " chosen"], "DenseCrystals"]]:
        """Dense blocks of crystals with equally many atoms, with the crystals' indices."""
        counts = self.counts
        for n in counts.unique().tolist():
            index = torch.nonzero(counts == n).flatten()
            part = self.select(index)
            shape = (len(index), n)
            yield (
                index,
                DenseCrystals(
                    part.lattice,
                    part.frac.reshape(*shape, 3),
                    part.numbers.reshape(shape),
                    part.occupancy.reshape(shape),
                    part.u_iso.reshape(shape),
                ),
            )

    def to(self, device: torch.device | str) -> "Crystals":
        """The same batch on another device."""
        moved = {
            f: getattr(self, f).to(device)
            for f in ("lattice", "frac", "numbers", "occupancy", "u_iso", "owner")
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class DenseCrystals:
    """Crystals of equally many atoms as one block."""

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    lattice: Float[Tensor, "crystals 3 3"]
    frac: Float[Tensor, "crystals atoms 3"]
    numbers: Int[Tensor, "crystals atoms"]
    occupancy: Float[Tensor, "crystals atoms"]
    u_iso: Float[Tensor, "crystals atoms"]


@dataclass(frozen=True)
class Symmetry:
    """A space group in the setting of its crystal, and the linear changes that keep it.

    ``cell_basis`` columns are symmetric strains (xx, yy, zz, yz, xz, xy) in the Cartesian
    frame of the lattice, L' = L (1 + ε). ``coordinate_basis`` columns are displacements of
    all atoms (fractional, row-major), without translations of the crystal as a whole.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    number: int
    rotations: Int[Tensor, "operations 3 3"]
    translations: Float[Tensor, "operations 3"]
    cell_basis: Float[Tensor, "6 strains"]
    coordinate_basis: Float[Tensor, "coordinates shifts"]


@dataclass(frozen=True)
class Batch:
    """What networks see; ``profile`` is √intensity and observed mask on one Q grid.

    ``nano`` are PXRDnet's patterns of large crystals (``xrdkit.nanocrystal``).
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    numbers: Int[Tensor, "crystals atoms"]
    frac: Float[Tensor, "crystals atoms 3"]
    cell: Float[Tensor, "crystals 6"]
    profile: Float[Tensor, "crystals 2 1024"]
    peaks: Float[Tensor, "crystals peaks 3"]
    mask: Bool[Tensor, "crystals atoms"]
    size: Float[Tensor, " crystals"]
    nano: Float[Tensor, "crystals 512"] | None = None


@dataclass(frozen=True)
class Problem:
    """What a source is asked.

    ``formula`` is the reduced formula as counts by element, empty where ``elements`` alone
    are known; ``contents`` the same for the primitive cell when it is known, or for the
    given cell. ``cells`` are candidate cells
    (a, b, c, α, β, γ) in any setting, with weights; a weight of one is a cell that is
    given, lower ones are proposals. ``phases`` are known to be in the sample beside the
    unknown one.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    pattern: Pattern
    formula: dict[str, float]
    contents: dict[str, float] | None = None
    cells: tuple[tuple[tuple[float, ...], float], ...] = ()
    space_group: int | None = None
    phases: tuple["Phase", ...] = ()
    library: Any = None
    exclude: frozenset[str] = frozenset()
    elements: tuple[str, ...] = ()

    @property
    def one_of_each(self) -> dict[str, float]:
        """The formula, or one atom of each element where that is not known."""
        return self.formula or dict.fromkeys(self.elements, 1.0)

    @property
    def given_cells(self) -> tuple[tuple[float, ...], ...]:
        """The cells that are given, not proposed."""
        return tuple(cell for cell, weight in self.cells if weight >= 1)

    @property
    def proposed_cells(self) -> tuple[tuple[float, ...], ...]:
        """The cells that are proposed, as by indexing."""
        return tuple(cell for cell, weight in self.cells if weight < 1)


@dataclass(frozen=True)
class Candidate:
    """One crystal that a source proposes, where it comes from, and its log prior.

    ``known`` names what is already known of this compound in this structure type (a library
    id, or the formula), and is empty where it would be new. ``swelling`` is ln of how much
    larger compounds of its type are than their elements let expect, 0 where unknown.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    crystal: Crystals
    symmetry: Symmetry
    origin: str
    prior: float = 0.0
    known: str = ""
    swelling: float = 0.0


@dataclass(frozen=True)
class Phase:
    """One phase; ``texture`` is a March–Dollase axis (hkl, standard setting) and r."""

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    crystal: Crystals
    symmetry: Symmetry
    scale: float = 1.0
    weight_fraction: float = 1.0
    texture: tuple[tuple[int, int, int], float] | None = None
    name: str = ""


@dataclass(frozen=True)
class Fit:
    """A candidate held against the pattern.

    ``residual`` is the profile residual on prepared data (0 is perfect), never an R_wp;
    ``prior``, ``known`` and ``swelling`` are the candidate's; ``parameters`` count those of
    structure and profile, not of the background;
    ``r_values`` holds R factors in percent where they exist. ``score`` is the log
    posterior up to a constant: higher is better, comparable only within one solution.
    ``unexplained`` is the share (0–1) of the observed intensity above background that lies
    clearly, by three standard deviations, above the calculated profile. ``determined`` and
    ``undetermined`` say in words which atoms, elements and coordinates the pattern decides
    and which are carried over from the structure type.
    ``structure`` is in the standard conventional setting, symmetrised within 0.1 Å; the
    atoms that were fitted are those of ``phases``, the known ones after the first. Curves
    are on ``two_theta``, measured points alone; ``background`` is all but the first phase.

    A Rietveld engine adds ``values`` and ``uncertainties`` (e.s.d.s) by the names of its
    parameters, ``correlations`` above 0.9, ``warnings``, ``sigma`` of the points (0: no
    weight), N and P of the R values, ``esd`` for what e.s.d.s are multiplied by, and its
    parameter ``table`` with the ``covariance`` of ``table.vector()``, which is multiplied
    by the square of that. ``factors`` are h, k, l and |F| (electrons), observed as the
    model partitions the profile, and calculated, of the first phase's unique reflections.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    structure: "Structure"
    phases: tuple[Phase, ...]
    origin: str
    residual: float
    score: float
    two_theta: Float[np.ndarray, " points"]
    observed: Float[np.ndarray, " points"]
    calculated: Float[np.ndarray, " points"]
    background: Float[np.ndarray, " points"]
    radiation: Radiation
    instrument: Instrument = field(default_factory=Instrument)
    space_group: int = 1
    space_group_symbol: str = "P1"
    wyckoff: str = ""
    prior: float = 0.0
    parameters: int = 0
    r_values: dict[str, float] = field(default_factory=dict)
    uncertainties: dict[str, float] = field(default_factory=dict)
    determined: tuple[str, ...] = ()
    undetermined: tuple[str, ...] = ()
    unexplained: float = 0.0
    known: str = ""
    swelling: float = 0.0
    engine: str = "batch"
    values: dict[str, float] = field(default_factory=dict)
    correlations: tuple[tuple[str, str, float], ...] = ()
    warnings: tuple[str, ...] = ()
    sigma: Float[np.ndarray, " points"] | None = None
    n_observations: int = 0
    n_parameters: int = 0
    esd: str = "gof"
    table: Any = None
    covariance: Float[np.ndarray, "rows rows"] | None = None
    factors: Float[np.ndarray, "reflections 5"] | None = None

    @property
    def r_wp(self) -> float:
        """Weighted profile R factor in percent, of a refinement on unprepared data."""
        if "r_wp" not in self.r_values:
            raise ValueError(
                f"engine '{self.engine}' worked on prepared data, so this fit has no R_wp; "
                "its profile residual is .residual, for R_wp refine it"
            )
        return self.r_values["r_wp"]


@dataclass(frozen=True)
class Solution:
    """The answer: fits best first, near-ties grouped, and how far to trust the first.

    ``groups`` holds indices into ``fits``; the members of one group cannot be told apart
    by this pattern. ``confidence`` is the probability that the first group holds the right
    structure, from ``features``. ``foreign`` names phases that would explain intensity that
    the first fit leaves, with the share (0–1) of that intensity each explains.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    problem: Problem
    fits: tuple[Fit, ...]
    groups: tuple[tuple[int, ...], ...]
    confidence: float
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    features: dict[str, float] = field(default_factory=dict)
    foreign: tuple[tuple[str, float], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def frame(self) -> "pd.DataFrame":
        """The ranked structures as a DataFrame, a row for each, as in the CSV file."""
        import pandas as pd

        from xrdkit.report import solution_rows

        return pd.DataFrame(solution_rows(self))


@dataclass(frozen=True)
class Progress:
    """Where a long job stands; ``best`` is the best fit or candidate so far, if any."""

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    stage: str
    done: int
    total: int
    best: Any = None
    message: str = ""
    seconds: float = 0.0


@dataclass
class Controls:
    """What may be changed while structures are drawn. The one mutable type.

    ``guidance`` says how far the network follows the pattern: 0 not at all, 1 as it has
    learned, more beyond that. ``steps`` are those of a whole path; None: as many as usual.
    """

    __repr__ = _in_line
    _repr_html_ = _in_notebook

    guidance: float = 1.0
    steps: int | None = None


@runtime_checkable
class Source(Protocol):
    """A source of candidates: a generator function over a problem."""

    def __call__(
        self,
        problem: Problem,
        *,
        count: int,
        generator: torch.Generator,
        device: torch.device,
    ) -> Iterator[Progress]:
        """Yield progress whose ``best`` is a Candidate; return the list of candidates."""
        ...

"""From observed lines to lattices: Monte-Carlo indexing by iterated least squares.

Q = 1/d² is linear in the reciprocal metric, Q = A h² + B k² + C l² + D kl + E hl + F hk.
Random cells of a Bravais lattice are improved all at once: every observed line takes the
nearest calculated one, A … F and a zero error follow by weighted least squares, and more
lines take part in every round (Coelho, J. Appl. Cryst. 36, 86 (2003)).
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

COLUMNS = {  # of A … F, that are free in a crystal system
    "c": (0,),
    "t": (0, 2),
    "h": (0, 2),
    "o": (0, 1, 2),
    "m": (0, 1, 2, 4),
    "a": (0, 1, 2, 3, 4, 5),
}
TIED = {"c": ((1, 0), (2, 0)), "t": ((1, 0),), "h": ((1, 0), (5, 0))}  # column, its equal
POINTS = {"P": 1, "C": 2, "I": 2, "F": 4, "R": 3}  # lattice points in a conventional cell
EQUIVALENT = {"c": 16.0, "t": 8.0, "h": 11.0, "o": 5.5, "m": 3.3, "a": 2.0}  # hkl a line
BOX = {
    "c": (9, 9, 9),
    "t": (7, 7, 20),
    "h": (7, 7, 22),
    "o": (6, 7, 10),
    "m": (6, 6, 6),
    "a": (5, 6, 6),
}
STARTS = {
    "cP": 200, "cI": 200, "cF": 200, "hP": 2000, "hR": 1500, "tP": 2000, "tI": 1500,
    "oP": 4000, "oC": 4000, "oI": 3000, "oF": 2000, "mP": 6000, "mC": 6000, "aP": 8000,
}  # fmt: skip
ROUNDS = (  # lines that take part, and how far Q may still be off, relative
    (6, 0.04), (9, 0.03), (13, 0.02), (18, 0.012), (24, 0.006), (24, 0.003), (24, 0.0),
)  # fmt: skip
HALVED = (2, 3, 4)  # rounds after which the worse half is dropped
FIRST_ZERO = 2  # round from which a zero error is free
LINES = ROUNDS[-1][0]
ZERO = 0.06  # °, standard deviation of the zero error
BLOCK = 1000  # cells improved at once
PRICE = 2.0  # lost in the figure by each free parameter
LONGEST = 60.0  # Å, largest spacing of lattice planes

Hkl = Float[Tensor, "reflections 3"]
Forms = Float[Tensor, "forms parameters"]
Metrics = Float[Tensor, "cells parameters"]


@dataclass(frozen=True)
class Lines:
    """Observed lines in ascending order, each with what is known of it.

    ``q`` is 1/d² (Å⁻²), ``slope`` dQ/d2θ (Å⁻² per °), ``sigma`` the error of 2θ (°),
    ``foreign`` the probability that the line is another phase's.
    """

    q: Float[Tensor, " lines"]
    slope: Float[Tensor, " lines"]
    sigma: Float[Tensor, " lines"]
    foreign: Float[Tensor, " lines"]

    def __len__(self) -> int:
        return len(self.q)

    def first(self, count: int) -> "Lines":
        """The lines of lowest Q."""
        parts = (self.q, self.slope, self.sigma, self.foreign)
        return Lines(*(part[:count] for part in parts))


@dataclass(frozen=True)
class Trials:
    """Cells of one Bravais lattice: metric (Å⁻²), zero error (°), figure of merit."""

    metric: Metrics
    zero: Float[Tensor, " cells"]
    figure: Float[Tensor, " cells"]

    def __len__(self) -> int:
        return len(self.zero)

    def best(self, count: int) -> "Trials":
        """The trials of highest figure."""
        return self.select(self.figure.argsort(descending=True)[:count])

    def select(self, index: Tensor) -> "Trials":
        """The trials of these indices."""
        return Trials(self.metric[index], self.zero[index], self.figure[index])


def quadratic_forms(hkl: Hkl, system: str) -> Forms:
    """Coefficients of the free metric parameters in Q of each reflection."""
    h, k, m = hkl.T
    six = torch.stack([h * h, k * k, m * m, k * m, h * m, h * k], 1)
    for column, equal in TIED.get(system, ()):
        six[:, equal] += six[:, column]
    return six[:, COLUMNS[system]]


def allowed(hkl: Hkl, centring: str) -> Tensor:
    """Reflections that the centring leaves."""
    h, k, m = hkl.long().T
    odd = {
        "P": 0 * h,
        "C": (h + k) % 2,
        "I": (h + k + m) % 2,
        "F": (h + k) % 2 + (k + m) % 2,
        "R": (-h + k + m) % 3,
    }
    return odd[centring] == 0


@cache
def forms_of(bravais: str) -> Forms:
    """Different quadratic forms of a Bravais lattice, from the box of its system."""
    ranges = [torch.arange(-n, n + 1.0) for n in BOX[bravais[0]]]
    hkl = torch.cartesian_prod(*ranges)
    hkl = hkl[allowed(hkl, bravais[1]) & (hkl != 0).any(1)]
    return quadratic_forms(hkl, bravais[0]).unique(dim=0)


def reciprocal_metric(metric: Metrics, system: str) -> Float[Tensor, "cells 3 3"]:
    """G* (Å⁻²) of the free parameters."""
    six = metric.new_zeros(len(metric), 6)
    six[:, list(COLUMNS[system])] = metric
    for column, equal in TIED.get(system, ()):
        six[:, column] = six[:, equal]
    six[:, 3:] /= 2
    return six[:, [0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(-1, 3, 3)


def free_parameters(reciprocal: Float[Tensor, "cells 3 3"], system: str) -> Metrics:
    """The inverse of ``reciprocal_metric``."""
    flat = reciprocal.flatten(1)[:, [0, 4, 8, 5, 2, 1]]
    six = flat * flat.new_tensor([1, 1, 1, 2, 2, 2])
    return six[:, COLUMNS[system]]


def volume_range(lines: Lines, system: str) -> tuple[float, float]:
    """Primitive volumes (Å³) with which this many lines are likely up to the last.

    A volume V gives 4/3 π V Q^1.5 reciprocal lattice points up to Q; between 70 % and a
    fifth of them, divided by their mean multiplicity, are taken to be seen.
    """
    sphere = 4 / 3 * math.pi * float(lines.q[-1]) ** 1.5
    least = 0.7 * len(lines) * EQUIVALENT[system] / sphere
    return least, 5 * least / 0.7


def random_volumes(
    bounds: tuple[float, float],
    unit: float | None,
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, " count"]:
    """Primitive volumes (Å³), log-uniform within bounds or near multiples of ``unit``."""
    low, high = bounds
    if unit is not None and 1.2 * high > unit:
        multiples = torch.arange(
            max(1, round(low / 1.3 / unit)), int(1.2 * high / unit) + 1
        )
        drawn = torch.multinomial(
            1 / multiples, count, replacement=True, generator=generator
        )
        spread = torch.randn(count, generator=generator) * 0.15
        return unit * multiples[drawn] * spread.exp()
    if unit is not None:
        return unit * (torch.randn(count, generator=generator) * 0.15).exp()
    return low * (high / low) ** torch.rand(count, generator=generator)


def random_metrics(
    bravais: str, volume: Float[Tensor, " cells"], generator: torch.Generator
) -> Metrics:
    """Random cells of these primitive volumes (Å³) as reciprocal metrics."""
    system, centring = bravais
    u = torch.rand(len(volume), 5, generator=generator)
    spread = torch.cat([torch.zeros_like(u[:, :1]), (2 * u[:, :2] - 1) * math.log(3.5)], 1)
    if system in "cth":
        low, high = (0.5, 9.0) if centring == "R" else (0.28, 7.0)
        axial = math.log(low) + math.log(high / low) * u[:, 0] * (system != "c")
        spread = torch.stack([0 * axial, 0 * axial, axial], 1) * (system != "c")
    elif centring != "C":
        spread = spread.sort(1).values
    cosines = torch.zeros_like(spread)
    if system == "h":
        cosines[:, 2] = -0.5
    elif system == "m":
        cosines[:, 1] = -(0.7 if centring == "C" else 0.5) * u[:, 2]
    elif system == "a":
        cosines = u[:, 2:] - 0.5
    edges = spread.exp()
    metric = edges[:, :, None] * edges[:, None] * _unit_metric(cosines)
    size = (volume * POINTS[centring]) ** 2 / torch.linalg.det(metric)
    keep = size > 0
    metric = metric[keep] * size[keep, None, None] ** (1 / 3)
    return free_parameters(torch.linalg.inv(metric), system)


def _unit_metric(cosines: Float[Tensor, "cells 3"]) -> Float[Tensor, "cells 3 3"]:
    alpha, beta, gamma = cosines.T
    one = torch.ones_like(alpha)
    rows = [one, gamma, beta, gamma, one, alpha, beta, alpha, one]
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def _nearest(
    trials: Trials, forms: Forms, lines: Lines
) -> tuple[Tensor, Float[Tensor, "cells lines"], Float[Tensor, " cells"]]:
    """Form nearest to each line, observed minus calculated Q, number of forms in reach."""
    values, order = (trials.metric @ forms.T).sort(1)
    observed = lines.q - lines.slope * trials.zero[:, None]
    above = torch.searchsorted(values, observed).clamp(1, values.shape[1] - 1)
    gap = torch.stack([values.gather(1, above - 1), values.gather(1, above)]) - observed
    near = above - (gap[0].abs() < gap[1].abs()).long()
    misfit = -torch.where(near < above, gap[0], gap[1])
    return order.gather(1, near), misfit, (values < lines.q[-1] * 1.02).sum(1).float()


def log_odds(
    misfit: Float[Tensor, "cells lines"],
    count: Float[Tensor, " cells"],
    lines: Lines,
    *,
    dimension: float,
    blur: Float[Tensor, " lines"] | None = None,
) -> Float[Tensor, " cells"]:
    """Log odds that lines lie at those of a cell rather than anywhere, summed over lines.

    Chance puts the nearest of ρ lines a degree at a distance x with density 2ρ exp(-2ρx);
    a line of the phase is there within its error. Cells with many lines thus gain little.
    """
    sigma = lines.sigma if blur is None else blur
    power = (lines.q / lines.q[-1]) ** (dimension - 1) / lines.q[-1] * lines.slope
    density = 2 * dimension * (count[:, None] + 0.5) * power
    x = misfit.abs() / lines.slope
    chance = density * torch.exp(-(density * x).clamp(max=30)) + 1e-12
    match = (
        math.sqrt(2 / math.pi) / sigma * torch.exp(-0.5 * (x / sigma).clamp(max=10) ** 2)
    )
    odds = lines.foreign + (1 - lines.foreign) * match / chance
    return odds.log().sum(1)


def improved(
    trials: Trials, forms: Forms, lines: Lines, system: str, off: float, *, shift: bool
) -> Trials:
    """One round of least squares with each line at the nearest calculated one.

    ``off`` is how far the metric may be off (relative); ``shift`` frees the zero error.
    """
    index, misfit, _ = _nearest(trials, forms, lines)
    error = 1.5 * lines.sigma * lines.slope + off * lines.q
    weight = 1 / (error**2 * (1 + (misfit / (2 * error)) ** 2))
    design = torch.cat([forms[index], lines.slope.expand_as(misfit)[..., None]], 2)
    expected = max(2 * off, 0.004) * _scale(trials.metric, system)
    pull = torch.cat(
        [expected**-2, torch.full_like(expected[:, :1], (ZERO if shift else 1e-6) ** -2)], 1
    )
    weighted = design * weight[..., None]
    normal = weighted.mT @ design + torch.diag_embed(pull)
    right = (weighted.mT @ misfit[..., None])[..., 0]
    right[:, -1] -= pull[:, -1] * trials.zero
    unit = torch.diagonal(normal, dim1=1, dim2=2).rsqrt()
    scaled = normal * unit[:, :, None] * unit[:, None]
    change = torch.linalg.solve(scaled, (right * unit)[..., None])[..., 0] * unit
    return replace(
        trials, metric=trials.metric + change[:, :-1], zero=trials.zero + change[:, -1]
    )


def _scale(metric: Metrics, system: str) -> Metrics:
    """Size of each parameter; of D, E and F the root of the product of their diagonals."""
    diagonal = torch.diagonal(reciprocal_metric(metric, system), dim1=1, dim2=2).clamp(1e-5)
    a, b, c = diagonal.sqrt().T
    return torch.stack([a * a, b * b, c * c, b * c, a * c, a * b], 1)[:, COLUMNS[system]]


def judged(
    trials: Trials, forms: Forms, lines: Lines, system: str, off: float = 0.0
) -> Trials:
    """The trials with their figures: log odds less a price for every parameter."""
    _, misfit, count = _nearest(trials, forms, lines)
    blur = lines.sigma + 0.5 * off * lines.q / lines.slope
    dimension = 1.0 if system == "c" else 1.5
    figure = log_odds(misfit, count, lines, dimension=dimension, blur=blur)
    least = torch.linalg.eigvalsh(reciprocal_metric(trials.metric, system))[:, 0]
    figure = torch.where(least > LONGEST**-2, figure, -torch.inf).nan_to_num(
        -torch.inf, -torch.inf
    )
    price = PRICE * trials.metric.shape[1]
    return replace(trials, figure=figure - price)


def search(
    bravais: str,
    lines: Lines,
    generator: torch.Generator,
    *,
    unit: float | None = None,
    keep: int = 20,
) -> Trials:
    """The best cells of one Bravais lattice; ``unit`` (Å³) divides the primitive volume."""
    system, lines = bravais[0], lines.first(LINES)
    volume = random_volumes(
        volume_range(lines, system), unit, STARTS[bravais], generator
    ).sort()[0]
    found = []
    for start in random_metrics(bravais, volume, generator).split(BLOCK):
        none = start.new_zeros(len(start))
        trials = Trials(start, none, none)
        found.append(_descent(trials, forms_of(bravais), lines, system).best(keep))
    return joined(found).best(keep)


def _descent(trials: Trials, forms: Forms, lines: Lines, system: str) -> Trials:
    """All rounds over a block of starts of similar volume."""
    typical = trials.metric @ forms.T
    for number, (count, off) in enumerate(ROUNDS):
        part = lines.first(count)
        reach = (typical < 1.1 * float(part.q[-1])).float().mean(0) > 0.02
        if reach.sum() < 2:
            continue
        shift = number >= FIRST_ZERO
        trials = improved(trials, forms[reach], part, system, off, shift=shift)
        if number in HALVED and len(COLUMNS[system]) > 2:
            ahead = lines.first(ROUNDS[number + 1][0])
            more = (typical < 1.1 * float(ahead.q[-1])).float().mean(0) > 0.02
            trials = judged(trials, forms[more], ahead, system, off)
            trials = trials.best(max(len(trials) // 2, 20))
    inside = (typical < 1.1 * float(lines.q[-1])).float().mean(0) > 0.02
    return judged(trials, forms[inside], lines, system) if inside.sum() > 1 else trials


def approached(trials: Trials, bravais: str, lines: Lines) -> Trials:
    """Rough cells, some percent off, brought to the lines: few at first, then more."""
    lines, values = lines.first(LINES), trials.metric @ forms_of(bravais).T
    forms = forms_of(bravais)[(values < 1.3 * float(lines.q[-1])).any(0)]
    for number, (count, off) in enumerate(ROUNDS[1:]):
        part, shift = lines.first(count), number >= FIRST_ZERO
        trials = improved(trials, forms, part, bravais[0], off, shift=shift)
    return judged(trials, forms, lines, bravais[0])


def joined(parts: list[Trials]) -> Trials:
    """Several lists of one Bravais lattice as one."""
    names = ("metric", "zero", "figure")
    return Trials(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def polished(trials: Trials, bravais: str, lines: Lines) -> Trials:
    """Trials refined against these lines, and judged on them."""
    trials = trials.select(trials.figure > -torch.inf)
    if not len(trials):
        return trials
    values = trials.metric @ forms_of(bravais).T
    forms = forms_of(bravais)[(values < 1.1 * float(lines.q[-1])).any(0)]
    for off in (0.003, 0.001, 0.0):
        trials = improved(trials, forms, lines, bravais[0], off, shift=True)
    trials = judged(trials, forms, lines, bravais[0])
    return trials.select(trials.figure > -torch.inf)

"""What an answer is worth that does not look at the pattern."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from xrdkit.crystal import to_structure
from xrdkit.generators.assign import fillings
from xrdkit.generators.spectra import slot_counts
from xrdkit.generators.templates import Hits, candidates, log_prior, numbered
from xrdkit.library import Library, expected_volume
from xrdkit.types import Candidate, Fit, Pattern, Phase, Problem, Solution


def composition_only(pattern: Pattern, formula: str, **keywords: Any) -> Solution:
    """Library types in the order of their prior, as if they were fits (residual 1)."""
    library = keywords["library"]
    if library is None:
        raise ValueError("control='composition' needs a library; build one and give it")
    contents = _amounts(keywords["contents"]) if "contents" in keywords else None
    known = library.without(keywords.get("exclude", ()))
    problem = Problem(pattern, _amounts(formula), contents=contents, library=known)
    fits = tuple(as_fits(pattern, by_prior(problem, keywords["candidates"])))
    alone = tuple((i,) for i in range(len(fits)))
    return Solution(problem, fits, alone, 0.0, "none")


def by_prior(problem: Problem, count: int) -> list[Candidate]:
    """Substitutions in the order of the prior that ``solve`` uses; cell by volume."""
    library: Library = problem.library
    formula = numbered(problem.formula)
    atoms = sum(formula.values())
    volume = expected_volume(library, formula)
    fixed = sum(problem.contents.values()) if problem.contents else None
    found: dict[tuple, tuple[float, int]] = {}
    for counts, rows in slot_counts(library):
        z, rest = divmod(sum(counts), atoms)
        if rest or (fixed and sum(counts) != fixed) or len(counts) != len(formula):
            continue
        choices = fillings(counts, {e: n * z for e, n in formula.items()})
        used = np.intersect1d(rows, library.rows)
        firsts = used[np.unique(library.kind[used], return_index=True)[1]]
        for row in firsts.tolist():
            for filling in choices:
                prior = log_prior(library, row, filling)
                found[int(library.kind[row]), filling] = (prior, row)
    best = sorted(found.items(), key=lambda item: -item[1][0])[:count]
    hits = Hits(
        np.array([row for _, (_, row) in best]),
        [filling for (_, filling), _ in best],
        np.full(len(best), volume),
        np.array([prior for _, (prior, _) in best]),
    )
    return [c for i in range(len(best)) for c in candidates(problem, hits, i, {})]


def as_fits(pattern: Pattern, candidates: Iterable[Candidate]) -> Iterable[Fit]:
    """Candidates as fits that nothing was fitted in."""
    flat = np.zeros_like(pattern.intensity)
    for one in candidates:
        yield Fit(
            to_structure(one.crystal),
            (Phase(one.crystal, one.symmetry),),
            one.origin,
            1.0,
            one.prior,
            pattern.two_theta,
            pattern.intensity,
            flat,
            flat,
            pattern.radiation,
            engine="none",
        )


def _amounts(formula: str) -> dict[str, float]:
    from pymatgen.core import Composition

    return dict(Composition(formula).get_el_amt_dict())

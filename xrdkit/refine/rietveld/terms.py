"""How many Chebyshev terms the background needs, by an information criterion."""

import numpy as np
from jaxtyping import Float

from xrdkit.refine.rietveld.data import Data
from xrdkit.refine.rietveld.least_squares import State
from xrdkit.refine.rietveld.results import effective_count
from xrdkit.refine.rietveld.table import Parameter, Parameters

FEWEST, MOST = 3, 24


def chosen_terms(data: Data, state: State) -> int:
    """The number of terms with the least BIC, n ln χ² + k ln n, all lines as they are.

    Only the overall scale of the lines follows. n is the number of independent points
    (``effective_count``): residuals that a wrong line shape leaves are alike over a line's
    width, and would otherwise be taken for background.
    """
    seen = data.weight > 0
    x, root = data.two_theta[seen], np.sqrt(data.weight[seen])
    lines = (state.evaluation.curve - state.evaluation.background)[seen]
    basis = _basis(data)[seen] * root[:, None]
    target = data.intensity[seen] * root
    n = effective_count(data, state.evaluation.curve)
    best, terms = np.inf, FEWEST
    for k in range(FEWEST, min(MOST, len(x) // 10) + 1):
        columns = np.column_stack([basis[:, :k], lines * root])
        rest = target - columns @ np.linalg.lstsq(columns, target, rcond=None)[0]
        criterion = n * np.log(rest @ rest) + k * np.log(n)
        if criterion < best:
            best, terms = criterion, k
    return terms


def _basis(data: Data) -> Float[np.ndarray, "points terms"]:
    x = data.two_theta
    return np.polynomial.chebyshev.chebvander(
        2 * (x - x[0]) / max(x[-1] - x[0], 1e-9) - 1, MOST - 1
    )


def with_terms(table: Parameters, count: int) -> Parameters:
    """The table with so many background terms, refined like the ones there are."""
    old = [row for row in table.rows if row.name.startswith("background:")]
    rest = [row for row in table.rows if not row.name.startswith("background:")]
    refine = all(row.refine for row in old)
    new = [Parameter(f"background:{i}", 0.0, refine=refine) for i in range(count)]
    rows = tuple([*old[:count], *new[len(old) :], *rest])
    return table.noted(rows, f"{count} background terms")

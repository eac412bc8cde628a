"""What GSAS-II answers -> a Fit with a parameter table, as the built-in engine has it."""

from dataclasses import replace

import numpy as np

from xrdkit.refine.gsas2.covariance import State, moved_rows, spread_of, values_of
from xrdkit.refine.gsas2.job import Model
from xrdkit.refine.rietveld.answer import phases_of, structure_of
from xrdkit.refine.rietveld.cautions import short_distances
from xrdkit.refine.rietveld.frame import make_frame
from xrdkit.refine.rietveld.model import evaluate
from xrdkit.refine.rietveld.results import (
    bragg_factors,
    correlations,
    effective_count,
    instrument_of,
    r_factors,
    uncertainties,
)
from xrdkit.refine.rietveld.results import values_of as values_by_name
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.refine.rietveld.table import Parameters
from xrdkit.types import Fit


def fit_of(model: Model, state: State, notes: tuple[str, ...] = ()) -> Fit:
    """The fit of a state of the worker; ``notes`` are warnings of the run.

    E.s.d.s are GSAS-II's, multiplied by GOF, but never made smaller by it. R_Bragg and R_F
    are those of the other engine, by its line shapes: GSAS-II's own leave out points below
    the background. Of a mixture ``background`` is that of the instrument: GSAS-II gives no
    curves of single phases.
    """
    data = model.data
    curves = [np.array(state[key]) * model.slits for key in ("calculated", "background")]
    table = table_of(model, state)
    frame = make_frame(data, table)
    lines = evaluate(frame, table, table.vector()).phases[0]
    r_values = r_factors(data, *curves, len(state["names"]))
    r_values |= bragg_factors(data, *curves, lines, frame.phases[0])
    spread = spread_of(table, state) / min(r_values.get("gof", 1.0), 1.0) ** 2
    table = table.with_vector(table.vector(), np.sqrt(np.diag(spread).clip(min=0)))
    close = [w for i in range(len(table.units)) for w in short_distances(table, i)]
    terms = sum(name.startswith("background:") for name in table.free)
    effective = effective_count(data, curves[0])
    chi2 = float((data.weight * (data.intensity - curves[0]) ** 2).sum())
    return Fit(
        structure=structure_of(table, 0),
        phases=phases_of(table),
        origin=f"{table.units[0].name}, refined by GSAS-II",
        residual=r_values["r_wp_b"] / 100,
        score=-(effective * np.log(chi2) + len(state["names"]) * np.log(effective)) / 2,
        two_theta=data.two_theta,
        observed=data.intensity,
        calculated=curves[0],
        background=curves[1],
        radiation=data.radiation,
        instrument=instrument_of(table, data.instrument),
        space_group=table.units[0].space_group,
        space_group_symbol=table.units[0].symbol,
        parameters=len(state["names"]) - terms,
        r_values=r_values,
        uncertainties=uncertainties(table, spread) | shared_occupancies(table, state),
        engine="gsas2",
        values=values_by_name(table),
        correlations=correlations(table, spread),
        warnings=(*notes, *close),
        sigma=data.sigma if data.counted else None,
        n_observations=data.count,
        n_parameters=len(state["names"]),
        table=table,
        covariance=spread,
    )


def table_of(model: Model, state: State) -> Parameters:
    """The parameter table with GSAS-II's values; what it refined is marked."""
    values = values_of(model.table, state, model.data.instrument.geometry)
    moved = moved_rows(model.table, state)
    rows = tuple(
        replace(row, value=values.get(row.name, row.value), refine=row.name in moved)
        for row in model.table.rows
    )
    return replace(model.table, rows=rows, note="refined by GSAS-II")


def shared_occupancies(table: Parameters, state: State) -> dict[str, float]:
    """E.s.d.s of occupancies whose sum is kept; GSAS-II varies another parameter."""
    found = {}
    for i, unit in enumerate(table.units):
        for k, site in enumerate(unit.sites):
            esd = state["dependent"].get(f"{i}::Afrac:{k}", 0.0)
            if esd > 0:
                found[f"{prefix_of(table.units, i)}occupancy:{site.label}"] = esd
    return found

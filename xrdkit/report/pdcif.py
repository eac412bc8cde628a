"""The powder part of a CIF: how a pattern was fitted, R values, curves, links of phases.

Item names from the powder dictionary 1.0 of the IUCr (B. H. Toby, International Tables for
Crystallography G, chapter 3.3) and the core dictionary 2.4.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from xrdkit import __version__
from xrdkit.refine.rietveld.geometry import with_esd
from xrdkit.refine.rietveld.start import prefix_of
from xrdkit.report.cif_words import plain
from xrdkit.report.curves import counted, gaps, smooth_background
from xrdkit.types import Fit

if TYPE_CHECKING:
    from gemmi import cif

FACTORS = {  # in percent in a Fit, shares in CIF
    "r_p": "_pd_proc_ls_prof_R_factor",
    "r_wp": "_pd_proc_ls_prof_wR_factor",
    "r_exp": "_pd_proc_ls_prof_wR_expected",
    "r_bragg": "_refine_ls_R_I_factor",
}
ENGINES = {"rietveld": "xrdkit", "gsas2": "GSAS-II, run by xrdkit"}
PROFILE = (
    "Pseudo-Voigt of Thompson, Cox & Hastings, J. Appl. Cryst. 20, 79 (1987): Gaussian "
    "FWHM^2^ = U tan^2^θ + V tanθ + W; Lorentzian FWHM = X/cosθ + Y tanθ + "
    "0.9λ/(size cosθ) + 4 strain tanθ; U, V, W in °^2^, X, Y in °, size in "
    "Å; axial divergence (S + H)/L by Finger, Cox & Jephcoat, J. Appl. Cryst. 27, 892 "
    "(1994)"
)
SHAPE = ("U", "V", "W", "X", "Y", "size", "strain", "asymmetry")
OTHERS = (
    "zero", "displacement", "roughness", "roughness_depth", "absorption", "polarisation",
)  # fmt: skip
BACKGROUND = (
    "Chebyshev polynomial of the first kind, sum over n of c(n) T(n, x) with x from -1 to "
    "1 over the range of the data; c(0), c(1), ... ="
)
TEXTURE = (
    "March-Dollase along ({}): mean over equivalents of (r^2^ cos^2^ + sin^2^/r)^-3/2^, r ="
)
CONVENTION = (
    "E.s.d.s in brackets come from the full least-squares matrix{}; what the model and the "
    "wavelength leave out is not in them"
)
KNOWN = ", with the statistics of the intensities alone"
UNKNOWN = ", with the scatter of the intensities about the fit, as their σ are not known"
SERIAL = (
    ", multiplied by the factor of Berar & Lelann, J. Appl. Cryst. 24, 1 (1991), for "
    "residuals that are alike between neighbours"
)
FACTOR = {
    "gof": ", multiplied by the goodness of fit where it is above one",
    "berar-lelann": SERIAL,
    "statistical": "",
}


def refinement(block: "cif.Block", fit: Fit) -> None:
    """R values, N, P, range, weighting, profile, background and warnings of a fit."""
    pairs = {
        "_computing_structure_refinement": ENGINES[fit.engine] + f" {__version__}",
        "_pd_calc_method": method(fit),
        "_pd_instr_geometry": fit.instrument.geometry,
        **_counts(fit),
        **{item: f"{fit.r_values[k] / 100:.5f}" for k, item in FACTORS.items()
           if k in fit.r_values},
        "_pd_proc_ls_profile_function": f"{PROFILE}. {values_text(fit, SHAPE)}",
        "_pd_proc_ls_background_function": _background(fit),
        "_pd_proc_ls_special_details": _details(fit),
    }  # fmt: skip
    if "gof" in fit.r_values:
        pairs["_refine_ls_goodness_of_fit_all"] = f"{fit.r_values['gof']:.4f}"
    if fit.table.texture is not None:
        axis = " ".join(map(str, fit.table.texture))
        said = f"{TEXTURE.format(axis)} {_shown(fit, 'texture')}"
        pairs["_pd_proc_ls_pref_orient_corr"] = said
    for item, value in pairs.items():
        block.set_pair(item, plain(value))


def method(fit: Fit) -> str:
    """Rietveld refinement, or Pawley fit where there are no atoms."""
    atoms = any(unit.sites for unit in fit.table.units)
    return "Rietveld refinement" if atoms else "Pawley fit"


def _counts(fit: Fit) -> dict[str, str]:
    """Points, range, parameters, weights and gaps."""
    x = fit.two_theta
    step = np.diff(x)
    found = {
        "_pd_meas_2theta_range_min": f"{x[0]:.5g}",
        "_pd_meas_2theta_range_max": f"{x[-1]:.5g}",
        "_pd_proc_number_of_points": str(len(x)),
        "_refine_ls_number_parameters": str(fit.n_parameters),
        "_refine_ls_structure_factor_coef": "Inet",
        "_refine_ls_matrix_type": "full",
        "_refine_ls_weighting_scheme": "unit" if fit.sigma is None else "sigma",
    }
    if np.allclose(step, step[0], atol=1e-4):
        found["_pd_meas_2theta_range_inc"] = f"{(x[-1] - x[0]) / (len(x) - 1):.5g}"
    left_out = ", ".join(f"{low:.3f}-{high:.3f}" for low, high in gaps(x))
    if left_out:
        found["_pd_proc_info_excluded_regions"] = f"no points within {left_out} ° 2θ"
    return found


def _background(fit: Fit) -> str:
    names = [name for name in fit.table.names if name.startswith("background:")]
    return f"{BACKGROUND} {', '.join(_shown(fit, name) for name in names)}"


def _details(fit: Fit) -> str:
    """What has no item of its own."""
    shares = f"{fit.n_observations} points have weight."
    if "r_wp_b" in fit.r_values:
        shares += f" wR without background {fit.r_values['r_wp_b'] / 100:.5f}."
    beam = f"Polarisation K = {fit.radiation.polarisation:g}."
    warnings = f" Warnings: {'; '.join(fit.warnings)}" if fit.warnings else ""
    return f"{shares} {beam} {values_text(fit, OTHERS)}. {convention(fit)}.{warnings}"


def convention(fit: Fit) -> str:
    """What e.s.d.s hold."""
    if fit.sigma is None:
        serial = SERIAL if fit.esd == "berar-lelann" else ""
        return CONVENTION.format(UNKNOWN + serial)
    return CONVENTION.format(KNOWN + FACTOR[fit.esd])


def values_text(fit: Fit, kinds: tuple[str, ...]) -> str:
    """Values with e.s.d.s of these parameters of all phases, but for those that do nothing.

    Zero, or an infinite size, does nothing, nor does the depth of a roughness of zero.
    """
    table = fit.table
    said = [
        f"{name} = {_shown(fit, name)}"
        for prefix in [prefix_of(table.units, i) for i in range(len(table.units))]
        for name in (prefix + kind for kind in kinds)
        if name in table and table[name.removesuffix("_depth")].value not in (0.0, np.inf)
    ]
    return ", ".join(said) or f"{', '.join(kinds)} = 0"


def _shown(fit: Fit, name: str) -> str:
    return with_esd(fit.table[name].value, fit.uncertainties.get(name, 0.0))


def link_phases(document: "cif.Document", fit: Fit) -> None:
    """Ids of the blocks; the first has the pattern and lists phases with their shares."""
    blocks = list(document)
    if len(blocks) == 1:
        blocks[0].set_pair("_pd_phase_name", plain(fit.table.units[0].name))
        return
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M}"
    ids = [f"{now}|{block.name}|xrdkit|" for block in blocks]
    for block, own in zip(blocks, ids, strict=True):
        block.set_pair("_pd_block_id", own)
    for block, unit in zip(blocks[1:], fit.table.units[1:], strict=True):
        block.set_pair("_pd_phase_name", plain(unit.name))
        block.set_pair("_pd_block_diffractogram_id", ids[0])
    loop = blocks[0].init_loop("_pd_phase_", ["block_id", "mass_%", "name"])
    for i, (own, unit) in enumerate(zip(ids, fit.table.units, strict=True)):
        name = f"{prefix_of(fit.table.units, i)}weight_fraction"
        share = 100 * fit.phases[i].weight_fraction
        esd = 100 * fit.uncertainties.get(name, 0.0)
        loop.add_row([own, with_esd(share, esd), plain(unit.name)])


def profile_loop(block: "cif.Block", fit: Fit) -> None:
    """The curves: of a refinement as measured with weights, else as prepared."""
    if fit.table is None:
        columns = {
            "_pd_proc_2theta_corrected": _column(
                fit.two_theta - fit.instrument.zero, ".4f"
            ),
            "_pd_proc_intensity_total": _column(fit.observed),
            "_pd_calc_intensity_total": _column(fit.calculated),
            "_pd_proc_intensity_bkg_calc": _column(fit.background),
        }
    else:
        kind = "counts" if counted(fit) else "intensity"
        columns = {
            "_pd_meas_2theta_scan": _column(fit.two_theta, ".5f"),
            f"_pd_meas_{kind}_total": _column(fit.observed, ".10g"),
            "_pd_calc_intensity_total": _column(fit.calculated),
            "_pd_proc_intensity_bkg_calc": _column(smooth_background(fit)),
            "_pd_proc_ls_weight": _column(weights(fit)),
        }
    loop = block.init_loop("", list(columns))
    loop.set_all_values(list(columns.values()))


def _column(values: Float[np.ndarray, " points"], form: str = ".6g") -> list[str]:
    return [format(float(value), form) for value in values]


def weights(fit: Fit) -> Float[np.ndarray, " points"]:
    """Weights 1/σ² of the points, zero where σ is; all one where σ is not known."""
    if fit.sigma is None:
        return np.ones_like(fit.observed)
    seen = fit.sigma > 0
    return np.divide(1, fit.sigma**2, out=np.zeros_like(fit.observed), where=seen)

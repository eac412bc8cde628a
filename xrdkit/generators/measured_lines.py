"""Densities whose amplitudes are those that a pattern shows, in a cell that is known.

What a network draws is blurred: it sees where atoms are better than how many electrons they
have. Its phases are kept, and its amplitudes replaced by measured ones; those of lines that
overlap are partitioned as in the draw, as Le Bail's method does by a model; those at one Q,
mostly equivalent ones, alike.
"""

import numpy as np
import torch
from jaxtyping import Float

from xrdkit.density import U_ISO
from xrdkit.scattering import lorentz_polarisation, slit_factor
from xrdkit.types import Pattern

APART = 0.02  # 1/Å: lines that are nearer to each other are one
MOST = 4.0  # an amplitude grows at most so many times


def with_measured_lines(
    lattice: Float[np.ndarray, "3 3"], density: Float[np.ndarray, "a b c"], pattern: Pattern
) -> Float[np.ndarray, "a b c"]:
    """Synthesis (e/Å³) of measured amplitudes and the phases of a density, 0 below zero.

    ``lattice`` (Å) is one whose lines are those of the ``pattern``, whose background is
    subtracted. Terms that it does not reach stay as they are, and so does the total of
    all intensities.
    """
    waves = np.fft.fftn(density)
    q = _lengths(lattice, density.shape)
    seen = (q > pattern.q[0]) & (q < pattern.q[-1])
    lengths, kind, many = np.unique(
        q[seen].round(4), return_inverse=True, return_counts=True
    )
    square = np.bincount(kind, np.square(np.abs(waves[seen]))) / many
    edges = (lengths[1:] + lengths[:-1])[np.diff(lengths) > APART] / 2
    line = np.searchsorted(edges, lengths)
    sharp = many * square * np.exp(U_ISO * lengths**2) * _factor(lengths, pattern)
    drawn = np.bincount(line, sharp, len(edges) + 1)
    area = np.clip(pattern.intensity, 0, None) * np.gradient(pattern.two_theta)
    shown = np.bincount(np.searchsorted(edges, pattern.q), area, len(edges) + 1)
    if not shown.sum() or not drawn.sum():
        return density
    gain = np.sqrt(shown / shown.sum() / np.maximum(drawn / drawn.sum(), 1e-9))
    amplitude = gain.clip(max=MOST)[line] * np.sqrt(square)
    waves[seen] *= amplitude[kind] / np.maximum(np.abs(waves[seen]), 1e-9)
    return np.fft.ifftn(waves).real.clip(0)


def _lengths(
    lattice: Float[np.ndarray, "3 3"], shape: tuple[int, ...]
) -> Float[np.ndarray, "a b c"]:
    """Q (1/Å) of all terms of a grid, in the order of the FFT."""
    hkl = np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    return 2 * np.pi * np.linalg.norm(np.stack(hkl, -1) @ np.linalg.inv(lattice).T, axis=-1)


def _factor(
    q: Float[np.ndarray, " terms"], pattern: Pattern
) -> Float[np.ndarray, " terms"]:
    """What takes squared amplitudes to areas of lines in 2θ."""
    sin = torch.as_tensor(q * pattern.radiation.main / (4 * np.pi))
    angle = torch.rad2deg(2 * sin.arcsin())
    factor = lorentz_polarisation(angle, pattern.radiation.polarisation)
    slits = pattern.instrument
    return (factor * slit_factor(sin, slits.slits, slits.overflow)).numpy()

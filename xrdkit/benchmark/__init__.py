"""The tables of BENCHMARKS.md, one function each.

``mp20`` and ``measured`` append an answer per line to a file and go on where it ends;
``summary`` counts. ``speed`` and ``agreement`` hold the simulation against other programs.
"""

from xrdkit.benchmark.counts import outcomes, summary, summary_text
from xrdkit.benchmark.measured_patterns import measured
from xrdkit.benchmark.programs import agreement, speed
from xrdkit.benchmark.simulated_patterns import mp20

__all__ = ["agreement", "measured", "mp20", "outcomes", "speed", "summary", "summary_text"]

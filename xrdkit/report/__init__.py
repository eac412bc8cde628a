"""Solutions and refinements for people and programs: tables, CIF, HTML, inputs."""

from xrdkit.files import check_file, write_whole
from xrdkit.report.cells import overlay, write_cells_html
from xrdkit.report.cif import cif_text, write_cif
from xrdkit.report.fullprof import write_fullprof
from xrdkit.report.gsas2 import write_gsas2
from xrdkit.report.html import write_html
from xrdkit.report.refined import parameter_rows, refinement_text, write_parameters
from xrdkit.report.refinement import write_refinement
from xrdkit.report.results import check_output, results_of, write_cifs, write_solution
from xrdkit.report.tables import (
    cells_text,
    solution_rows,
    solution_text,
    text_table,
    write_csv,
)
from xrdkit.report.topas import write_topas

__all__ = [
    "cells_text",
    "check_file",
    "check_output",
    "cif_text",
    "overlay",
    "parameter_rows",
    "refinement_text",
    "results_of",
    "solution_rows",
    "solution_text",
    "text_table",
    "write_cells_html",
    "write_cif",
    "write_cifs",
    "write_csv",
    "write_fullprof",
    "write_gsas2",
    "write_html",
    "write_parameters",
    "write_refinement",
    "write_solution",
    "write_topas",
    "write_whole",
]

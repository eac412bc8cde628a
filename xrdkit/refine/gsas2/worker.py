"""Runs GSAS-II for xrdkit: a JSON job a line on standard input, JSON lines on the output.

It runs in the Python that has GSAS-II, as a program, and imports nothing of xrdkit. It ends
when its input ends, also in the middle of a job, so that it never outlives its owner. What
GSAS-II prints goes to standard error.
"""

import json
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from math import radians, tan
from pathlib import Path
from typing import Any

SIZES = (1e-3, 100.0)  # µm, what widths can tell
LARGEST_U = 0.5  # Å²
ROUNDING = 0.005  # of occupancies that stand in CIF with three figures
WORSE = 1.0005  # times R_wp: a stage that ends above is undone


class Project:
    """One powder pattern and its phases as a GSAS-II project in a folder."""

    def __init__(self, api: Any, job: dict[str, Any], folder: Path) -> None:
        self.api, self.folder, self.path = api, folder, folder / "xrdkit.gpx"
        self.gpx = api.G2Project(newgpx=str(self.path))
        self._add_histogram(job)
        for phase in job["phases"]:
            self._add_phase(phase)
        if job["hold"]:
            self.gpx.add_HoldConstr(job["hold"])
        for names in job["equal"]:
            self.gpx.add_EquivConstr(names)
        for total, names in job["sums"]:
            self.gpx.add_EqnConstr(total, names, [1.0] * len(names))
        self.gpx.save()
        self.best = float("inf")

    @property
    def histogram(self) -> Any:
        """GSAS-II's powder histogram."""
        return self.gpx.histograms()[0]

    def use(self, phase: Any) -> dict[str, Any]:
        """What a phase has of its own in this histogram."""
        return phase.data["Histograms"][self.histogram.name]

    def _add_histogram(self, job: dict[str, Any]) -> None:
        """Through files that GSAS-II reads; then the data as they are."""
        data, instrument = self.folder / "data.xye", self.folder / "instrument.instprm"
        data.write_text("".join(f"{x:.7f} 1 1\n" for x in job["two_theta"]))
        items = (f"{key}:{value}\n" for key, value in job["instrument"].items())
        instrument.write_text("#GSAS-II instrument parameter file\n" + "".join(items))
        found = self.gpx.add_powder_histogram(str(data), str(instrument), fmthint="xye")
        for i, key in enumerate(("two_theta", "intensity", "weight")):
            found.data["data"][1][i][:] = job[key]
        found.data["data"][0]["Yminmax"] = [min(job["intensity"]), max(job["intensity"])]
        if job["excluded"]:
            found.Excluded(job["excluded"])
        sample, (background, _) = found.SampleParameters, found.Background
        sample["Type"], sample["Gonio. radius"] = job["geometry"], job["radius"]
        for key, value in job["sample"].items():
            sample[key][0] = value
        sample["Scale"][1] = background[1] = False
        background[2:] = [len(job["background"]), *job["background"]]

    def _add_phase(self, given: dict[str, Any]) -> None:
        """By space group, cell and sites; in the setting that is meant."""
        phase = self.gpx.add_phase(
            phasename=given["name"],
            spacegroup=given["symbol"],
            cell=given["cell"],
            histograms=[self.histogram],
        )
        for label, element, frac, occupancy, u, places in given["atoms"]:
            atom = phase.add_atom(*frac, element, label, occupancy, u)
            if atom.mult != places:
                raise ValueError(
                    f"GSAS-II puts {label} of {given['name']} on {atom.mult} places, not "
                    f"on {places}: it has another setting of {given['symbol']!r}"
                )
        use = self.use(phase)
        use["Scale"][0] = given["scale"]
        use["Size"][1][0], use["Mustrain"][1][0] = given["size"], given["strain"]
        if given["texture"]:
            axis, r = given["texture"]
            use["Pref.Ori."][:4] = ["MD", r, False, axis]

    def refine(self, flags: list[dict[str, Any]], cycles: int) -> float:
        """R_wp (%) once what the flags say (GSAS-II's words) is free and refined."""
        self.gpx.data["Controls"]["data"]["max cyc"] = cycles
        self.gpx.data["Covariance"]["data"] = {}
        for one in flags:
            named = {"phase": one["phase"]} if "phase" in one else {}
            self.gpx.set_refinement({"set": one["set"]}, **named)
        self.gpx.refine()
        if not cycles:
            return 0.0
        fit = self.gpx.data["Covariance"]["data"]
        if "Rvals" not in fit:
            raise ArithmeticError("the least squares failed")
        return float(fit["Rvals"]["Rwp"])

    def stage(self, stage: dict[str, Any]) -> dict[str, Any]:
        """One stage, undone where R_wp rises, something is impossible, or all fails."""
        begin, why = time.perf_counter(), ""
        shutil.copy(self.path, self.folder / "before.gpx")
        try:
            r_wp = self.refine(stage["flags"], stage["cycles"])
            why = self.impossible()
            if not r_wp <= self.best * WORSE:
                why = f"R_wp rose from {self.best:.3f} to {r_wp:.3f} %"
        except Exception as error:  # whatever it is, the stage is undone
            why = f"{type(error).__name__}: {error}"
        answer = {"stage": stage["name"], "undone": why}
        if why:
            shutil.copy(self.folder / "before.gpx", self.path)
            self.gpx = self.api.G2Project(gpxfile=str(self.path))
        else:
            self.best = min(self.best, r_wp)
            answer["state"] = self.state()
        return answer | {"seconds": time.perf_counter() - begin}

    def impossible(self) -> str:
        """What no sample and no instrument can have, in words; empty where all is fine."""
        if self._least_variance() <= 0:
            return "a width is negative within the range"
        if self.histogram.InstrumentParameters["SH/L"][1] < 0:
            return "the asymmetry is negative"
        if self.histogram.SampleParameters["Scale"][0] <= 0:
            return "the scale is negative"
        for phase in self.gpx.phases():
            use = self.use(phase)
            if not SIZES[0] <= use["Size"][1][0] <= SIZES[1]:
                return f"a size of {use['Size'][1][0]:.3g} µm"
            if use["Mustrain"][1][0] < 0 or use["Scale"][0] < 0:
                return "the strain or the share of a phase is negative"
            for atom in phase.atoms():
                if not 0 < atom.uiso < LARGEST_U:
                    return f"U of {atom.label} is {atom.uiso:.3f} Å²"
                if not -ROUNDING <= atom.occupancy <= 1 + ROUNDING:
                    return f"the occupancy of {atom.label} is {atom.occupancy:.3f}"
        return ""

    def _least_variance(self) -> float:
        """The smallest U tan²θ + V tanθ + W within the range."""
        u, v, w = (self.histogram.InstrumentParameters[key][1] for key in "UVW")
        low, high = (tan(radians(t / 2)) for t in self.histogram.data["Limits"][1])
        lowest = min(max(-v / (2 * u), low), high) if u > 0 else low
        return min(u * t * t + v * t + w for t in (low, lowest, high))

    def state(self) -> dict[str, Any]:
        """The model and its covariance as numbers, by GSAS-II's names."""
        fit = self.gpx.data["Covariance"]["data"]
        rows = self.histogram.data["data"][1]
        instrument = self.histogram.InstrumentParameters
        sample = self.histogram.SampleParameters
        return {
            "names": list(fit.get("varyList", [])),
            "covariance": plain(fit.get("covMatrix", [])),
            "dependent": {k: plain(v[1]) for k, v in fit.get("depSigDict", {}).items()},
            "calculated": plain(rows[3]),
            "background": plain(rows[4]),
            "coefficients": plain(self.histogram.Background[0][3:]),
            "instrument": {k: plain(v[1]) for k, v in instrument.items() if k != "Type"},
            "sample": {k: plain(sample[k][0]) for k in SAMPLE if k in sample},
            "phases": [self._phase_state(phase) for phase in self.gpx.phases()],
        }

    def _phase_state(self, phase: Any) -> dict[str, Any]:
        use = self.use(phase)
        atoms = [
            [a.label, plain(a.coordinates), plain(a.occupancy), plain(a.uiso)]
            for a in phase.atoms()
        ]
        return {
            "cell": plain(phase.data["General"]["Cell"][1:7]),
            "atoms": atoms,
            "scale": plain(use["Scale"][0]),
            "size": plain(use["Size"][1][0]),
            "strain": plain(use["Mustrain"][1][0]),
            "texture": plain(use["Pref.Ori."][1]),
        }


SAMPLE = ("Scale", "Shift", "DisplaceX")


def plain(value: Any) -> Any:
    """Numbers and arrays of numpy as JSON takes them."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


def answers(api: Any, job: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """Every stage's outcome, with the state where it is kept; ``done`` at the end.

    Stages that had to be undone get a second chance before the last one. What the first one
    does, the others need: where it fails it is the only one.
    """
    project = Project(api, job, folder)
    answer = project.stage(job["stages"][0])
    yield answer
    if not answer["undone"]:
        again = []
        for stage in job["stages"][1:-1]:
            answer = project.stage(stage)
            yield answer
            again += [stage] if answer["undone"] else []
        for stage in (*again, *job["stages"][1:][-1:]):
            yield project.stage(stage)
    if job["project"]:
        project.gpx.save(job["project"])
    yield {"done": True}


def versions() -> tuple[Any, dict[str, Any]]:
    """GSAS-II's scripting module and versions; an ImportError where it is not whole."""
    from GSASII import GSASIIpath, GSASIIscriptable, pypowder

    version = str(GSASIIpath.GetVersionNumber())
    GSASIIscriptable.SetPrintLevel("error")
    return GSASIIscriptable, {
        "ready": version,
        "python": sys.version.split()[0],
        "compiled": bool(pypowder),
    }


def main(folder: Path) -> None:
    """Answer jobs until the input ends; then the folder goes, too."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    jobs: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(line)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    def say(answer: dict[str, Any]) -> None:
        output.write(json.dumps(answer) + "\n")
        output.flush()

    threading.Thread(target=read, daemon=True).start()
    try:
        api, ready = versions()
    except Exception as error:
        say({"absent": f"{type(error).__name__}: {error}"})
        return
    say(ready)
    while True:
        try:
            for answer in answers(api, json.loads(jobs.get()), folder):
                say(answer)
        except Exception as error:  # told, and the next job is waited for
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file: its neighbours are not for this Python
    main(Path(sys.argv[1]))

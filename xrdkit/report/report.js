// The plots of a report: each figure.pattern holds its data as JSON, and a still picture for
// where no script runs. scales.js and plot.js stand before this file in the same script.

/** Text in base64 as bytes, and a curve of 65,536 steps between its ends. */
const bufferOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const curveOf = ({ low, high, steps }) =>
  Float64Array.from(new Uint16Array(bufferOf(steps)), (s) => low + ((high - low) * s) / 65535);

function startReport(figure) {
  const { two_theta, observed, background, fits, ...said } = JSON.parse(
    figure.querySelector("script[type='application/json']").textContent,
  );
  const shared = {
    ...said,
    x: new Float32Array(bufferOf(two_theta)),
    observed: curveOf(observed),
    background: background && curveOf(background),
    ticks: [],
    peaks: [],
    excluded: [],
  };
  const drawn = fits.map((fit) => ({ name: "calculated", ...fit, calculated: curveOf(fit.calculated) }));
  const choice = figure.querySelector("select");
  const root = figure.querySelector("input[type='checkbox']");
  figure.classList.add("live");
  const plot = patternPlot(figure.querySelector(".plot"));
  const show = () =>
    plot.show({ ...shared, fits: [drawn[Number(choice?.value ?? 0)]], root: root.checked });
  choice?.addEventListener("change", show);
  root.addEventListener("change", show);
  show();
}

document.querySelectorAll("figure.pattern").forEach(startReport);

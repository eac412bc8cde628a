// Curves as the kernel sends them, and the axes that they are drawn over.

const D_VALUES = [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]; // labels of a d axis, times 10ⁿ

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** float32 bytes from the kernel, or null. */
function floats(bytes) {
  if (!bytes) return null;
  const start = bytes.byteOffset;
  return new Float32Array(bytes.buffer.slice(start, start + bytes.byteLength));
}

/** What the kernel says of a plot, with its curves as arrays. */
function decoded(view) {
  const fits = (view.fits ?? []).map((fit) => ({ ...fit, calculated: floats(fit.calculated) }));
  const curves = { x: floats(view.x), observed: floats(view.observed), background: floats(view.background) };
  return { ticks: [], peaks: [], excluded: [], ...view, ...curves, fits };
}

/** First index whose value is not below. */
function indexOf(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Round numbers between two values, some `count` of them. */
function roundNumbers(low, high, count) {
  const raw = (high - low) / count;
  if (!(raw > 0) || !Number.isFinite(raw)) return [];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((s) => s * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found.map((v) => Number(v.toPrecision(12)));
}

/** How 2θ is spread over an axis: place of an angle, angle of a place, numbers beside it. */
function axisOf(name, wavelength) {
  const q = (angle) => (4 * Math.PI * Math.sin((angle * Math.PI) / 360)) / wavelength;
  const angleOf = (value) => (360 / Math.PI) * Math.asin(clamp((value * wavelength) / (4 * Math.PI), 0, 1));
  const even = (low, high, count) => roundNumbers(low, high, count).map((v) => [v, String(v)]);
  const spacings = (low, high) => {
    const [least, most] = [high, low].map((place) => (2 * Math.PI) / Math.exp(place));
    const found = [];
    for (let power = 10 ** Math.floor(Math.log10(least)); power <= most; power *= 10)
      for (const value of D_VALUES) {
        const d = Number((value * power).toPrecision(3));
        if (d >= least && d <= most) found.push([Math.log((2 * Math.PI) / d), String(d)]);
      }
    return found;
  };
  if (name === "q") return { label: "Q (1/Å)", place: q, angle: angleOf, numbers: even };
  if (name === "d")
    return {
      label: "d (Å)",
      place: (angle) => Math.log(Math.max(q(angle), 1e-3)),
      angle: (place) => angleOf(Math.exp(place)),
      numbers: spacings,
    };
  const label = `2θ (°), λ = ${wavelength.toFixed(5)} Å`;
  return { label, place: (angle) => angle, angle: (place) => place, numbers: even };
}

/** Tell of a new theme and of each new size of an element; returns what ends that. */
function watched(element, recolour, resize) {
  const theme = new MutationObserver(recolour);
  theme.observe(document.body, { attributes: true });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", recolour);
  const size = new ResizeObserver(([{ contentRect }]) => resize(contentRect.width, contentRect.height));
  size.observe(element);
  return () => {
    theme.disconnect();
    size.disconnect();
    dark.removeEventListener("change", recolour);
  };
}

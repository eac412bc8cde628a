// The plot of an xrdkit report: drag to zoom, double click to see all, keys as on the page.
// No imports and no exports, so that it also loads from a file beside many reports.
"use strict";
{
  const LEFT = 62, RIGHT = 14, TOP = 12, AXIS = 44, ROW = 13, BAND = 74;
  const NEAR = 6; // pixels
  const COLOURS = ["ticks", "ticks2", "ticks3", "ticks4"]; // of phases, in turn

  const buffer = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const curve = ({ low, high, steps }) =>
    Float64Array.from(new Uint16Array(buffer(steps)), (s) => low + ((high - low) * s) / 65535);
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

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
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((s) => s * power >= raw) * power;
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high + 1e-9 * step; i++) found.push(i * step);
    return found.map((v) => Number(v.toPrecision(12)));
  }

  function start(figure) {
    const data = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
    const x = new Float32Array(buffer(data.two_theta));
    const observed = curve(data.observed);
    const background = data.background && curve(data.background);
    const fits = data.fits.map((fit) => ({ ...fit, calculated: curve(fit.calculated) }));
    const full = [x[0], x[x.length - 1]];
    const canvas = figure.querySelector("canvas");
    const readout = figure.querySelector("output");
    const choice = figure.querySelector("select");
    const root = figure.querySelector("input[type='checkbox']");
    const pen = canvas.getContext("2d");
    let [from, to] = full, chosen = 0, cursor = null, dragged = null, width = 0, height = 0;

    const toPixel = (angle) => LEFT + ((angle - from) / (to - from)) * (width - LEFT - RIGHT);
    const toAngle = (pixel) => from + ((pixel - LEFT) / (width - LEFT - RIGHT)) * (to - from);
    const spacing = (angle) => data.wavelength / 2 / Math.sin((angle * Math.PI) / 360);
    const colour = (name) => getComputedStyle(figure).getPropertyValue(`--${name}`).trim();
    const level = (value) => (root.checked ? Math.sqrt(Math.max(value, 0)) : value);

    function zoom(low, high) {
      const span = clamp(high - low, 0.2, full[1] - full[0]);
      const middle = clamp((low + high) / 2, full[0] + span / 2, full[1] - span / 2);
      [from, to] = [middle - span / 2, middle + span / 2];
      draw();
    }

    function draw() {
      const ratio = window.devicePixelRatio || 1;
      width = canvas.clientWidth;
      height = canvas.clientHeight;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.font = `12px ${getComputedStyle(figure).fontFamily}`;
      const { calculated, phases } = fits[chosen];
      const first = Math.max(indexOf(x, from) - 1, 0), last = Math.min(indexOf(x, to) + 1, x.length);
      let low = Infinity, high = -Infinity, least = 0, most = 0;
      for (let i = first; i < last; i++) {
        low = Math.min(low, observed[i], calculated[i]);
        high = Math.max(high, observed[i], calculated[i]);
        least = Math.min(least, observed[i] - calculated[i]);
        most = Math.max(most, observed[i] - calculated[i]);
      }
      low = root.checked ? Math.max(low, 0) : low;
      const floor = height - AXIS - BAND - ROW * phases.length - 7;
      const span = (level(high) - level(low)) * 1.05 || 1;
      const toHeight = (value) => floor - ((level(value) - level(low)) / span) * (floor - TOP);
      axes(low, high, toHeight, floor);
      pen.save();
      pen.beginPath();
      pen.rect(LEFT, 0, width - LEFT - RIGHT, height - AXIS);
      pen.clip();
      pen.fillStyle = colour("observed");
      for (let i = first; i < last; i++) pen.fillRect(toPixel(x[i]) - 1, toHeight(observed[i]) - 1, 2, 2);
      if (background) path(first, last, (i) => toHeight(background[i]), colour("base"));
      path(first, last, (i) => toHeight(calculated[i]), colour("calculated"));
      phases.forEach(({ lines }, row) => marks(lines, floor + 5 + ROW * row, COLOURS[row % COLOURS.length]));
      const middle = height - AXIS - BAND / 2;
      const unit = Math.min((floor - TOP) / (high - low || 1), (BAND - 10) / (most - least || 1));
      const offset = middle + ((most + least) / 2) * unit;
      path(first, last, () => offset, colour("grid"));
      path(first, last, (i) => offset - (observed[i] - calculated[i]) * unit, colour("difference"));
      pointer(toHeight);
      pen.restore();
    }

    function path(first, last, heightOf, style) {
      pen.beginPath();
      for (let i = first; i < last; i++) pen.lineTo(toPixel(x[i]), heightOf(i));
      pen.strokeStyle = style;
      pen.lineWidth = 1.2;
      pen.stroke();
    }

    function marks(lines, top, name) {
      pen.beginPath();
      for (const [angle] of lines) {
        pen.moveTo(toPixel(angle), top);
        pen.lineTo(toPixel(angle), top + 11);
      }
      pen.strokeStyle = colour(name);
      pen.lineWidth = 1.2;
      pen.stroke();
    }

    function axes(low, high, toHeight, floor) {
      pen.strokeStyle = colour("grid");
      pen.fillStyle = colour("muted");
      pen.lineWidth = 1;
      pen.textAlign = "center";
      pen.textBaseline = "top";
      const bottom = height - AXIS;
      for (const angle of roundNumbers(from, to, Math.max(width / 90, 3))) {
        rule(toPixel(angle), bottom, toPixel(angle), bottom + 5);
        pen.fillText(String(angle), toPixel(angle), bottom + 8);
      }
      pen.fillText(data.abscissa, (LEFT + width - RIGHT) / 2, bottom + 26);
      pen.textAlign = "right";
      pen.textBaseline = "middle";
      for (const value of roundNumbers(low, high, 5)) {
        if (toHeight(value) > floor + 1 || toHeight(value) < TOP - 6) continue;
        rule(LEFT, toHeight(value), width - RIGHT, toHeight(value));
        pen.fillText(value.toLocaleString("en"), LEFT - 8, toHeight(value));
      }
      rule(LEFT, bottom, width - RIGHT, bottom);
      pen.save();
      pen.translate(13, (TOP + floor) / 2);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "center";
      pen.fillText(data.ordinate, 0, 0);
      pen.restore();
    }

    function rule(x1, y1, x2, y2) {
      pen.beginPath();
      pen.moveTo(x1, y1);
      pen.lineTo(x2, y2);
      pen.stroke();
    }

    function pointer(toHeight) {
      if (dragged !== null && cursor !== null) {
        pen.fillStyle = colour("selection");
        const [a, b] = [dragged, cursor].map((pixel) => clamp(pixel, LEFT, width - RIGHT));
        pen.fillRect(Math.min(a, b), 0, Math.abs(b - a), height - AXIS);
        return;
      }
      if (cursor === null) return;
      pen.strokeStyle = colour("muted");
      rule(cursor, TOP, cursor, height - AXIS);
    }

    function tell() {
      if (cursor === null || cursor < LEFT || cursor > width - RIGHT) {
        readout.textContent = readout.dataset.hint;
        return;
      }
      const angle = toAngle(cursor);
      const right = clamp(indexOf(x, angle), 1, x.length - 1);
      const i = angle - x[right - 1] < x[right] - angle ? right - 1 : right;
      const show = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
      const near = ({ lines }) => lines
        .filter(([at]) => Math.abs(toPixel(at) - cursor) < NEAR)
        .sort((a, b) => Math.abs(a[0] - angle) - Math.abs(b[0] - angle))
        .slice(0, 3).map((line) => line.slice(1).join(" ")).join(", ");
      const parts = [
        `2θ ${x[i].toFixed(2)}°`,
        `d ${spacing(x[i]).toFixed(4)} Å`,
        `observed ${show(observed[i])}`,
        `calculated ${show(fits[chosen].calculated[i])}`,
      ];
      const { phases } = fits[chosen];
      for (const phase of phases) {
        const name = phases.length > 1 ? phase.name : "hkl";
        if (near(phase)) parts.push(`${name} ${near(phase)}`);
      }
      readout.textContent = parts.join("   ");
    }

    const place = (event) => event.clientX - canvas.getBoundingClientRect().left;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      dragged = cursor = place(event);
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      cursor = place(event);
      tell();
      draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      const [a, b] = [dragged, place(event)].map(toAngle);
      const far = dragged !== null && Math.abs(place(event) - dragged) > 5;
      dragged = null;
      if (far) zoom(Math.min(a, b), Math.max(a, b));
    });
    canvas.addEventListener("pointercancel", () => (dragged = null));
    canvas.addEventListener("pointerleave", () => {
      cursor = null;
      tell();
      draw();
    });
    canvas.addEventListener("dblclick", () => zoom(...full));
    canvas.addEventListener("keydown", (event) => {
      const span = to - from, middle = (from + to) / 2;
      const moves = {
        ArrowLeft: [from - span / 5, to - span / 5],
        ArrowRight: [from + span / 5, to + span / 5],
        ArrowUp: [middle - span / 3, middle + span / 3],
        ArrowDown: [middle - 0.75 * span, middle + 0.75 * span],
        "+": [middle - span / 3, middle + span / 3],
        "-": [middle - 0.75 * span, middle + 0.75 * span],
        Escape: full,
        Home: full,
      };
      if (!(event.key in moves)) return;
      event.preventDefault();
      zoom(...moves[event.key]);
    });
    choice?.addEventListener("change", () => {
      chosen = Number(choice.value);
      tell();
      draw();
    });
    root.addEventListener("change", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    figure.classList.add("live");
    new ResizeObserver(draw).observe(canvas);
    tell();
    draw();
  }

  document.querySelectorAll("figure.pattern").forEach(start);
}

// A powder pattern on a canvas: observed points, fits with differences, lines of phases,
// peaks and excluded ranges; zoom by mouse and keys; axis 2θ, Q or d. All places are kept as
// 2θ in degrees, the axis only says how they are spread. Reports and widgets put it, behind
// scales.js, before their own part of a script, so it neither imports nor exports.

const RIGHT = 14, TOP = 12, FOOT = 44, ROW = 13, BAND = 74;
const NEAR = 6; // pixels
const PHASES = ["ticks", "ticks2", "ticks3", "ticks4"]; // colours, in turn
const FITS = ["calculated", "second", "third"];
const DASHES = [[], [7, 3], [2, 3]]; // colour is never the only difference

/** An element with these properties or, where it has none of that name, attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/**
 * A plot in `host`. `excluding()` says whether dragging leaves a range out, which
 * `exclude(low, high)` is then told, instead of zooming.
 */
function patternPlot(host, { excluding = () => false, exclude = () => {} } = {}) {
  const canvas = make("canvas", { tabIndex: 0, role: "img" });
  const readout = make("output", { ariaLive: "off" });
  const keys = make("div", { className: "keys" });
  const swatch = make("i", { hidden: true });
  host.classList.add("plot");
  host.append(canvas, readout, keys, swatch);
  const pen = canvas.getContext("2d");
  let data = null, full = [0, 1], from = 0, to = 1, axis = axisOf("two_theta", 1), root = false;
  let cursor = null, dragged = null, width = 0, height = 0, left = 62, asked = 0, shown = "";
  const colours = new Map();

  const toPixel = (angle) => {
    const [low, high] = [axis.place(from), axis.place(to)];
    return left + ((axis.place(angle) - low) / (high - low)) * (width - left - RIGHT);
  };
  const toAngle = (pixel) => {
    const [low, high] = [axis.place(from), axis.place(to)];
    return axis.angle(low + ((pixel - left) / (width - left - RIGHT)) * (high - low));
  };
  const level = (value) => (root ? Math.sqrt(Math.max(value, 0)) : value);
  /** A colour of the style sheet, as the theme of the page has it. */
  const colour = (name) => {
    if (!colours.has(name)) {
      swatch.style.color = `var(--${name})`;
      colours.set(name, getComputedStyle(swatch).color);
    }
    return colours.get(name);
  };

  function zoom(low, high) {
    const places = full.map(axis.place);
    const whole = places[1] - places[0];
    const span = clamp(high - low, whole / 400, whole);
    const middle = clamp((low + high) / 2, places[0] + span / 2, places[1] - span / 2);
    [from, to] = [middle - span / 2, middle + span / 2].map(axis.angle);
    if (span === whole) [from, to] = full;
    draw();
  }

  function draw() {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      paint();
    });
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    if (!data || !width) return;
    if (!colours.has("font")) colours.set("font", `12px ${getComputedStyle(host).fontFamily}`);
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== across || canvas.height !== down) [canvas.width, canvas.height] = [across, down];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = colours.get("font");
    const { x, observed, background, fits } = data;
    const first = Math.max(indexOf(x, from) - 1, 0), last = Math.min(indexOf(x, to) + 1, x.length);
    const curves = [observed, ...fits.map((fit) => fit.calculated)];
    let low = Infinity, high = -Infinity, least = 0, most = 0;
    for (let i = first; i < last; i++) {
      for (const curve of curves) {
        low = Math.min(low, curve[i]);
        high = Math.max(high, curve[i]);
      }
      for (const { calculated } of fits) {
        least = Math.min(least, observed[i] - calculated[i]);
        most = Math.max(most, observed[i] - calculated[i]);
      }
    }
    low = root ? Math.max(low, 0) : low;
    const rows = tickRows();
    const floor = height - FOOT - (fits.length ? BAND : 0) - ROW * rows.length - 7;
    const span = (level(high) - level(low)) * 1.05 || 1;
    const toHeight = (value) => floor - ((level(value) - level(low)) / span) * (floor - TOP);
    const labels = roundNumbers(low, high, 5).map((value) => [value, value.toLocaleString("en")]);
    left = Math.max(62, 36 + Math.max(...labels.map(([, text]) => pen.measureText(text).width)));
    axes(labels, toHeight, floor);
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, width - left - RIGHT, height - FOOT);
    pen.clip();
    for (const range of data.excluded) shade(...range.map(toPixel), "excluded");
    if (fits.length) points(first, last, (i) => toHeight(observed[i]));
    else path(first, last, (i) => toHeight(observed[i]), "observed");
    if (background) path(first, last, (i) => toHeight(background[i]), "base");
    fits.forEach(({ calculated }, n) =>
      path(first, last, (i) => toHeight(calculated[i]), FITS[n % 3], DASHES[n % 3]));
    for (const [angle, value] of data.peaks) arrow(toPixel(angle), toHeight(value) - 4);
    rows.forEach(({ lines, colour: name }, row) => marks(lines, floor + 5 + ROW * row, name));
    if (fits.length) differences(first, last, least, most, (floor - TOP) / (high - low || 1));
    pointer();
    pen.restore();
  }

  /** Lines of every phase of every fit, then those of other phases, each with its colour. */
  function tickRows() {
    const many = data.fits.length > 1;
    const own = data.fits.flatMap((fit, n) =>
      fit.phases.map((phase, i) => ({ ...phase, colour: many ? FITS[n % 3] : PHASES[i % 4] })));
    const others = data.ticks.map((phase, i) => ({ ...phase, colour: PHASES[(own.length + i) % 4] }));
    return [...own, ...others];
  }

  function differences(first, last, least, most, scale) {
    const { observed, fits } = data;
    const unit = Math.min(scale, (BAND - 10) / (most - least || 1));
    const offset = height - FOOT - BAND / 2 + ((most + least) / 2) * unit;
    path(first, last, () => offset, "grid");
    fits.forEach(({ calculated }, n) => {
      const name = fits.length > 1 ? FITS[n % 3] : "difference";
      path(first, last, (i) => offset - (observed[i] - calculated[i]) * unit, name, DASHES[n % 3]);
    });
  }

  function points(first, last, heightOf) {
    pen.fillStyle = colour("observed");
    for (let i = first; i < last; i++) pen.fillRect(toPixel(data.x[i]) - 1, heightOf(i) - 1, 2, 2);
  }

  /** A curve, interrupted where it has no value. */
  function path(first, last, heightOf, name, dash = []) {
    pen.beginPath();
    let down = false;
    for (let i = first; i < last; i++) {
      const h = heightOf(i);
      if (Number.isNaN(h)) down = false;
      else if (down) pen.lineTo(toPixel(data.x[i]), h);
      else {
        pen.moveTo(toPixel(data.x[i]), h);
        down = true;
      }
    }
    stroke(name, dash);
  }

  function stroke(name, dash = []) {
    pen.strokeStyle = colour(name);
    pen.lineWidth = 1.2;
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  }

  function marks(lines, top, name) {
    pen.beginPath();
    for (const [angle] of lines) {
      pen.moveTo(toPixel(angle), top);
      pen.lineTo(toPixel(angle), top + 11);
    }
    stroke(name);
  }

  function arrow(at, tip) {
    pen.fillStyle = colour("peak");
    pen.beginPath();
    pen.moveTo(at, tip);
    pen.lineTo(at - 4, tip - 7);
    pen.lineTo(at + 4, tip - 7);
    pen.fill();
  }

  function shade(a, b, name) {
    pen.fillStyle = colour(name);
    pen.fillRect(Math.min(a, b), 0, Math.max(Math.abs(b - a), 1), height - FOOT);
  }

  function axes(labels, toHeight, floor) {
    pen.strokeStyle = colour("grid");
    pen.fillStyle = colour("muted");
    pen.lineWidth = 1;
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const bottom = height - FOOT;
    let free = -Infinity;
    const numbers = axis.numbers(axis.place(from), axis.place(to), Math.max(width / 90, 3));
    for (const [place, text] of numbers.sort((a, b) => a[0] - b[0])) {
      const at = toPixel(axis.angle(place));
      if (at < free) continue;
      free = at + 34;
      rule(at, bottom, at, bottom + 5);
      pen.fillText(text, at, bottom + 8);
    }
    pen.fillText(axis.label, (left + width - RIGHT) / 2, bottom + 26);
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const [value, text] of labels) {
      if (toHeight(value) > floor + 1 || toHeight(value) < TOP - 6) continue;
      rule(left, toHeight(value), width - RIGHT, toHeight(value));
      pen.fillText(text, left - 8, toHeight(value));
    }
    rule(left, bottom, width - RIGHT, bottom);
    pen.save();
    pen.translate(10, (TOP + floor) / 2);
    pen.rotate(-Math.PI / 2);
    pen.textAlign = "center";
    const whole = pen.measureText(data.ordinate).width < floor - TOP;
    pen.fillText(whole ? data.ordinate : data.ordinate.split(",")[0], 0, 0);
    pen.restore();
  }

  function rule(x1, y1, x2, y2) {
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
    pen.stroke();
  }

  function pointer() {
    if (cursor === null) return;
    const inside = (pixel) => clamp(pixel, left, width - RIGHT);
    if (dragged !== null) shade(inside(dragged), inside(cursor), excluding() ? "excluded" : "selection");
    else {
      pen.strokeStyle = colour("muted");
      rule(cursor, TOP, cursor, height - FOOT);
    }
  }

  function read() {
    if (!data || cursor === null || cursor < left || cursor > width - RIGHT) {
      const hint = excluding()
        ? "Drag over a range to leave it out."
        : "Drag to zoom, double click to see all; in focus: ← → move, ↑ ↓ zoom, Esc shows all.";
      if (readout.textContent !== hint) readout.textContent = hint;
      return;
    }
    const { x, observed, fits, wavelength } = data;
    const angle = toAngle(cursor);
    const right = clamp(indexOf(x, angle), 1, x.length - 1);
    const i = angle - x[right - 1] < x[right] - angle ? right - 1 : right;
    const show = (value) => value.toLocaleString("en", { maximumSignificantDigits: 4 });
    const d = wavelength / 2 / Math.sin((x[i] * Math.PI) / 360);
    const parts = [`2θ ${x[i].toFixed(2)}°`, `Q ${((2 * Math.PI) / d).toFixed(3)} 1/Å`, `d ${d.toFixed(4)} Å`];
    parts.push(`observed ${show(observed[i])}`);
    for (const fit of fits) parts.push(`${fits.length > 1 ? fit.name : "calculated"} ${show(fit.calculated[i])}`);
    const rows = tickRows();
    for (const { name, lines } of rows) {
      const near = lines
        .filter(([at]) => Math.abs(toPixel(at) - cursor) < NEAR)
        .sort((a, b) => Math.abs(a[0] - angle) - Math.abs(b[0] - angle))
        .slice(0, 3).map((line) => line.slice(1).join(" ")).join(", ");
      if (near) parts.push(`${rows.length > 1 ? name : "hkl"} ${near}`);
    }
    readout.textContent = parts.join("   ");
  }

  function legend() {
    const key = (name, words, dash = "solid") =>
      make("span", {}, make("i", { style: `border-top: 3px ${dash} var(--${name})` }), words);
    const entries = [key("observed", "observed")];
    if (data.background) entries.push(key("base", "background"));
    data.fits.forEach((fit, n) => entries.push(key(FITS[n % 3], fit.name, ["solid", "dashed", "dotted"][n % 3])));
    if (data.fits.length < 2) for (const row of tickRows()) entries.push(key(row.colour, `lines of ${row.name}`));
    if (data.fits.length === 1) entries.push(key("difference", "observed − calculated"));
    if (data.peaks.length) entries.push(key("peak", `${data.peaks.length} peaks found`));
    if (data.excluded.length) entries.push(key("excluded", "left out"));
    const said = entries.map((entry) => entry.outerHTML).join();
    if (said !== shown) keys.replaceChildren(...entries);
    shown = said;
  }

  const place = (event) => event.clientX - canvas.getBoundingClientRect().left;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !data) return;
    dragged = cursor = place(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    cursor = place(event);
    read();
    draw();
  });
  canvas.addEventListener("pointerup", (event) => {
    if (dragged === null) return;
    const ends = [dragged, place(event)].map((pixel) => clamp(toAngle(clamp(pixel, left, width - RIGHT)), ...full));
    const far = Math.abs(place(event) - dragged) > 5;
    const [low, high] = ends.sort((a, b) => a - b);
    dragged = null;
    if (far && excluding()) exclude(low, high);
    else if (far) zoom(axis.place(low), axis.place(high));
    draw();
  });
  canvas.addEventListener("pointercancel", () => (dragged = null));
  canvas.addEventListener("pointerleave", () => {
    cursor = null;
    read();
    draw();
  });
  canvas.addEventListener("dblclick", () => zoom(...full.map(axis.place)));
  canvas.addEventListener("keydown", (event) => {
    const [low, high] = [axis.place(from), axis.place(to)];
    const span = high - low, middle = (low + high) / 2;
    const moves = {
      ArrowLeft: [low - span / 5, high - span / 5],
      ArrowRight: [low + span / 5, high + span / 5],
      ArrowUp: [middle - span / 3, middle + span / 3],
      ArrowDown: [middle - 0.75 * span, middle + 0.75 * span],
      "+": [middle - span / 3, middle + span / 3],
      "-": [middle - 0.75 * span, middle + 0.75 * span],
      Escape: full.map(axis.place),
      Home: full.map(axis.place),
    };
    if (!data || !(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation(); // Jupyter moves between cells with the same keys
    zoom(...moves[event.key]);
  });
  const recolour = () => {
    colours.clear();
    draw();
  };
  const unwatch = watched(canvas, recolour, (wide, high) => {
    [width, height] = [wide, high];
    draw();
  });
  read();

  return {
    /** Draw this; the part in view stays where the pattern is the same. */
    show(next) {
      const ends = next.x?.length ? [next.x[0], next.x[next.x.length - 1]] : null;
      data = ends ? next : null;
      host.hidden = !ends;
      if (!ends) return;
      if (ends[0] !== full[0] || ends[1] !== full[1]) [full, from, to] = [ends, ...ends];
      axis = axisOf(next.axis ?? "two_theta", next.wavelength);
      root = Boolean(next.root);
      canvas.setAttribute("aria-label", `${next.words}; arrow keys move and zoom`);
      legend();
      read();
      draw();
    },
    end() {
      cancelAnimationFrame(asked);
      unwatch();
    },
  };
}

const SPEEDS = [[2, "2"], [5, "5"], [10, "10"], [20, "20"], [60, "60"]];
const LINES = ["calculated", "second", "ticks"]; // colours of the lines of a small plot
const [SIDE, HEAD, BASE] = [46, 8, 16]; // margins of a small plot, px

export default {
  render({ model, el }) {
    const ends = [];
    const path = decodedPath(model.get("path")), count = path.starts.length - 1;
    const pattern = model.get("view").x ? { ...decoded(model.get("view")), all: floats(model.get("view").all) } : null;
    let now = clamp(model.get("frame"), 0, count - 1), playing = 0, due = 0, radius = 1;

    const pictures = make("div"), host = make("div", { className: "over" }), small = make("div", { className: "small" });
    const picture = crystalView(pictures);
    ends.push(() => picture.end());
    const plot = pattern && patternPlot(host);
    if (plot) ends.push(() => plot.end());
    const curves = model.get("curves").map((told) => smallPlot(small, told, count, (frame) => jump(frame, true)));
    ends.push(() => curves.forEach((curve) => curve.end()));

    const play = button("", () => (playing ? pause() : start()), { className: "main play" });
    const slider = make("input", { type: "range", min: 0, max: count - 1, step: 1, ariaLabel: "frame" });
    slider.addEventListener("input", () => jump(slider.valueAsNumber));
    slider.addEventListener("change", () => keep());
    const place = make("span", { className: "muted place" });
    const speed = make("select", {}, ...SPEEDS.map(([value, text]) => make("option", { value }, text)));
    speed.value = String(SPEEDS.map(([value]) => value).findLast((value) => value <= model.get("speed")) ?? 2);
    speed.addEventListener("change", () => tell(model, "speed", Number(speed.value)));
    const cells = ["a", "b", "c"].map((name, k) => {
      const input = make("input", { type: "number", min: 1, max: 4, ariaLabel: `cells along ${name}` });
      input.addEventListener("change", () => {
        const next = [...model.get("supercell")];
        next[k] = clamp(Math.round(input.valueAsNumber) || 1, 1, 4);
        input.value = next[k];
        tell(model, "supercell", next);
      });
      return input;
    });
    const along = ["a", "b", "c"].map((name, k) => button(name, () => picture.along(k), { ariaLabel: `look along ${name}` }));
    const elements = make("span", { className: "keys" }, ...path.elements.map(({ symbol }, i) =>
      make("span", {}, make("b", { className: "ball", style: `background: ${ATOMS[i % 8]}` }), symbol)));
    const name = "trajectory";
    const bar = make("div", { className: "bar player", role: "group", ariaLabel: "play the trajectory" }, play, slider, place,
      make("label", { className: "field beside" }, make("span", {}, "frames a second"), speed));
    const tools = make("div", { className: "row" },
      make("span", { className: "row cells", role: "group", ariaLabel: "supercell" }, make("span", { className: "muted" }, "supercell"), ...cells),
      make("span", { className: "row", role: "group", ariaLabel: "look along" }, make("span", { className: "muted" }, "look along"), ...along),
      field(model, ends, "bonds", "bonds", { type: "checkbox" }), elements);
    const ofPattern = make("div", { className: "row" },
      field(model, ends, "axis", "axis", { options: [["two_theta", "2θ"], ["q", "Q"], ["d", "d"]], beside: true }),
      field(model, ends, "root", "root of intensity", { type: "checkbox" }));
    const files = make("div", { className: "row", role: "group", ariaLabel: "save this frame" },
      make("span", { className: "muted" }, "save this frame"),
      button("CIF", () => save(new Blob([cifOf(path, now)], { type: "chemical/x-cif" }), `${name}_${now + 1}.cif`)),
      button("PNG", () => picture.canvas.toBlob((blob) => save(blob, `${name}_${now + 1}.png`))),
      make("span", { className: "muted" }, "space plays; ← → step, Home and End jump; drag the crystal to turn it"));

    fill(el, bar, make("div", { className: "two" }, make("div", {}, pictures, tools), small),
      ...(plot ? [ofPattern, host] : []), files);

    /** Draw a frame; `kept` tells the kernel, which playing does not. */
    function jump(frame, kept = false) {
      now = clamp(frame, 0, count - 1);
      const started = performance.now();
      picture.show(frameOf(path, now), { repeat: model.get("supercell"), bonds: model.get("bonds"), radius });
      for (const curve of curves) curve.mark(now);
      if (plot) plot.show({ ...pattern, fits: [{ name: "calculated", phases: [], calculated: calculated() }],
        axis: model.get("axis"), root: model.get("root") });
      slider.value = now;
      place.textContent = `${now + 1} of ${count}`;
      slider.setAttribute("aria-valuetext", `frame ${now + 1} of ${count}`);
      el.dataset.milliseconds = (performance.now() - started).toFixed(2);
      if (kept) keep();
    }

    const calculated = () => pattern.all.subarray(now * pattern.x.length, (now + 1) * pattern.x.length);
    const keep = () => model.get("frame") !== now && tell(model, "frame", now);

    function start() {
      if (now === count - 1) now = -1;
      due = performance.now();
      playing = requestAnimationFrame(step);
      said();
    }

    function step(time) {
      const gap = 1000 / Number(speed.value);
      const many = Math.floor((time - due) / gap);
      if (many > 0 || now < 0) {
        due += Math.max(many, 0) * gap;
        if (time - due > 5 * gap) due = time; // the page was hidden
        jump(now + 1);
      }
      if (now >= count - 1) pause();
      else playing = requestAnimationFrame(step);
    }

    function pause() {
      cancelAnimationFrame(playing);
      playing = 0;
      said();
      keep();
    }

    function said() {
      play.textContent = playing ? "❚❚ Pause" : "▶ Play";
      play.ariaPressed = String(Boolean(playing));
    }

    el.addEventListener("keydown", (event) => {
      const keys = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: count - 1 };
      const own = event.target.matches("select, input:not([type='range'])");
      if (own || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
      if (event.key === " " && !event.target.matches("button")) playing ? pause() : start();
      else if (event.key in keys) {
        if (playing) pause();
        jump(keys[event.key], true);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });

    ends.push(follow(model, ["supercell"], () => {
      cells.forEach((input, k) => (input.value = model.get("supercell")[k]));
      radius = radiusOf(path.lattice, model.get("supercell"));
    }));
    ends.push(follow(model, ["supercell", "bonds", "axis", "root"], () => jump(now)));
    ends.push(follow(model, ["frame"], () => playing || (model.get("frame") !== now && jump(model.get("frame")))));
    ends.push(() => cancelAnimationFrame(playing));
    said();
    return () => ends.forEach((end) => end());
  },
};

/** Cells, atoms and where each frame begins, of all frames. */
function decodedPath(told) {
  const counts = told.counts.buffer.slice(told.counts.byteOffset, told.counts.byteOffset + told.counts.byteLength);
  const starts = [0];
  for (const n of new Uint32Array(counts)) starts.push(starts[starts.length - 1] + n);
  const kinds = new Uint8Array(told.kinds.buffer, told.kinds.byteOffset, told.kinds.byteLength);
  return { lattice: floats(told.lattice), frac: floats(told.frac), kinds, starts, elements: told.elements };
}

function frameOf({ lattice, frac, kinds, starts, elements }, i) {
  const own = kinds.subarray(starts[i], starts[i + 1]);
  const words = `crystal of frame ${i + 1} of ${starts.length - 1}, ${own.length} atoms`;
  return { lattice: lattice.subarray(9 * i, 9 * i + 9), frac: frac.subarray(3 * starts[i], 3 * starts[i + 1]), kinds: own, elements, words };
}

/** A frame as CIF, without symmetry: what is drawn, no more. */
function cifOf(path, i) {
  const { lattice, frac, kinds, elements } = frameOf(path, i);
  const rows = [0, 1, 2].map((k) => lattice.slice(3 * k, 3 * k + 3));
  const length = rows.map((row) => Math.hypot(...row));
  const angle = (p, q) => (180 / Math.PI) * Math.acos(clamp(rows[p].reduce((sum, v, k) => sum + v * rows[q][k], 0) / length[p] / length[q], -1, 1));
  const angles = [angle(1, 2), angle(0, 2), angle(0, 1)];
  const sites = Array.from(kinds, (kind, n) => [`${elements[kind].symbol}${n + 1}`, elements[kind].symbol,
    ...frac.slice(3 * n, 3 * n + 3)].map((v) => (typeof v === "number" ? v.toFixed(6) : v)).join(" "));
  return [`data_frame_${i + 1}`, ...["a", "b", "c"].map((name, k) => `_cell_length_${name} ${length[k].toFixed(6)}`),
    ...["alpha", "beta", "gamma"].map((name, k) => `_cell_angle_${name} ${angles[k].toFixed(5)}`),
    "_space_group_name_H-M_alt 'P 1'", "_space_group_IT_number 1", "loop_", "_space_group_symop_operation_xyz", "'x, y, z'", "loop_",
    ...["label", "type_symbol", "fract_x", "fract_y", "fract_z"].map((name) => `_atom_site_${name}`), ...sites, ""].join("\n");
}

/** Hand a file to the browser. */
function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A curve or three over the frames; a click jumps there. */
function smallPlot(host, { title, unit, lines }, count, jump) {
  const canvas = make("canvas", { role: "img", ariaLabel: `${title} over the frames; click to jump` });
  const caption = make("figcaption", { className: "keys" }), swatch = make("i", { hidden: true });
  host.append(make("figure", {}, caption, canvas, swatch));
  const curves = lines.map((line) => ({ name: line.name, values: floats(line.values) }));
  const readings = curves.map(({ name }, n) => {
    const text = make("b");
    const key = make("i", { style: `border-top: 3px ${["solid", "dashed", "dotted"][n]} var(--${LINES[n]})` });
    caption.append(make("span", {}, ...(curves.length > 1 ? [key] : []),
      `${n ? "" : `${title} `}${name} `, text, n === curves.length - 1 ? ` ${unit}` : ""));
    return text;
  });
  const all = curves.flatMap(({ values }) => Array.from(values).filter(Number.isFinite));
  let [low, high] = all.length ? [all.reduce((a, b) => Math.min(a, b)), all.reduce((a, b) => Math.max(a, b))] : [0, 1];
  if (high - low < 1e-4 * Math.max(Math.abs(high), 1)) [low, high] = [low - 0.5, high + 0.5];
  const still = make("canvas"), pen = still.getContext("2d"), screen = canvas.getContext("2d"); // still: all but the mark
  let width = 0, height = 0, frame = 0, accent = "";
  const colour = (name) => {
    swatch.style.color = `var(--${name})`;
    return getComputedStyle(swatch).color;
  };
  const across = (i) => SIDE + (count > 1 ? i / (count - 1) : 0.5) * (width - SIDE - 8);
  const up = (v) => height - BASE - ((v - low) / (high - low)) * (height - BASE - HEAD);

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    if (!width) return;
    [still.width, still.height] = [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    accent = colour("accent");
    pen.font = `11px ${getComputedStyle(host).fontFamily}`;
    pen.fillStyle = colour("muted");
    pen.strokeStyle = colour("grid");
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const value of roundNumbers(low, high, 3)) {
      pen.beginPath();
      pen.moveTo(SIDE, up(value));
      pen.lineTo(width - 8, up(value));
      pen.stroke();
      pen.fillText(String(value), SIDE - 5, up(value));
    }
    pen.textBaseline = "alphabetic";
    pen.fillText(String(count), width - 8, height - 3);
    pen.textAlign = "left";
    pen.fillText("1", SIDE, height - 3);
    curves.forEach(({ values }, n) => line(values, n));
    place();
  }

  function line(values, n) {
    pen.beginPath();
    let down = false;
    values.forEach((v, i) => {
      if (Number.isFinite(v)) pen[down ? "lineTo" : "moveTo"](across(i), up(v));
      down = Number.isFinite(v);
    });
    pen.strokeStyle = colour(LINES[n]);
    pen.lineWidth = 1.5;
    pen.setLineDash(DASHES[n]);
    pen.stroke();
    pen.setLineDash([]);
  }

  /** The plot with its mark. A mark on a layer of its own has the browser compose the whole page for every frame. */
  function place() {
    if (!width) return;
    screen.clearRect(0, 0, canvas.width, canvas.height);
    screen.drawImage(still, 0, 0);
    const ratio = canvas.width / width;
    screen.fillStyle = accent;
    screen.fillRect((across(frame) - 0.75) * ratio, 4 * ratio, 1.5 * ratio, (height - 20) * ratio);
  }
  const frameAt = (event) =>
    clamp(Math.round(((event.offsetX - SIDE) / (width - SIDE - 8)) * (count - 1)), 0, count - 1);
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    jump(frameAt(event));
  });
  canvas.addEventListener("pointermove", (event) => event.buttons && jump(frameAt(event)));
  const unwatch = watched(canvas, paint, (wide, high) => {
    [width, height] = [wide, high];
    paint();
  });
  return {
    mark(next) {
      frame = next;
      readings.forEach((text, n) => {
        const value = curves[n].values[frame];
        text.textContent = Number.isFinite(value) ? shown(value) : "no match";
      });
      place();
    },
    end() {
      unwatch();
    },
  };
}

/** Four digits, without an exponent for what is nearly nothing. */
const shown = (value) => (Math.abs(value) < 1e-4 ? "0" : Math.abs(value) < 1 ? value.toFixed(4) : value.toPrecision(4));

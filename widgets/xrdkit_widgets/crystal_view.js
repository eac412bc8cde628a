// Atoms, bonds and the cell of a crystal on a canvas, in parallel projection, the far ones
// drawn first. No WebGL. Put before the part of a script that uses it.

const EDGE = 0.02; // of an axis: atoms so near to a face are drawn on the face across too
const BOND = 1.15; // of the sum of covalent radii: the longest bond
const BALL = 0.42; // of the covalent radius
const MOST_BONDED = 700; // atoms among which bonds are looked for
const TURN = 0.01; // radians a pixel
const CORNERS = [0, 1, 2, 3, 4, 5, 6, 7].map((n) => [n & 1, (n >> 1) & 1, n >> 2]);
const EDGES = [[0, 1], [0, 2], [0, 4], [1, 3], [1, 5], [2, 3], [2, 6], [3, 7], [4, 5], [4, 6], [5, 7], [6, 7]];
const PIECES = 6; // of an edge, so that atoms can stand before and behind it
const ATOMS = ["#d55e00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#0072b2", "#e69f00", "#9aa0a4"];

/** A picture of a frame {lattice, frac, kinds, elements}; `view` has repeat, bonds, radius. */
function crystalView(host) {
  const canvas = make("canvas", { tabIndex: 0, role: "img", className: "crystal" });
  host.append(canvas);
  const pen = canvas.getContext("2d");
  const swatch = make("i", { hidden: true });
  host.append(swatch);
  let turn = product(aboutX(-1.25), aboutZ(-0.35)), zoom = 1;
  let crystal = null, view = null, dragged = null, asked = 0, width = 0, height = 0, ink = "", font = "";
  const balls = new Map();

  const draw = () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      paint();
    });
  };

  /** Everything that is drawn, in Å after turning: [depth, kind, x, y, ...]. */
  function parts() {
    const { lattice: l, frac, kinds, elements } = crystal;
    const { repeat, bonds } = view;
    const middle = [0, 1, 2].map((k) => (repeat[0] * l[k] + repeat[1] * l[3 + k] + repeat[2] * l[6 + k]) / 2);
    const at = (u, v, w) => {
      const x = u * l[0] + v * l[3] + w * l[6] - middle[0];
      const y = u * l[1] + v * l[4] + w * l[7] - middle[1];
      const z = u * l[2] + v * l[5] + w * l[8] - middle[2];
      return [0, 3, 6].map((k) => turn[k] * x + turn[k + 1] * y + turn[k + 2] * z);
    };
    const found = [], atoms = [];
    for (let i = 0; i < kinds.length; i++) {
      const [us, vs, ws] = [0, 1, 2].map((k) => images(frac[3 * i + k], repeat[k]));
      for (const u of us) for (const v of vs) for (const w of ws)
        atoms.push([...at(u, v, w), kinds[i]]);
    }
    for (const [x, y, z, kind] of atoms) found.push([z, "atom", x, y, kind]);
    if (bonds && atoms.length <= MOST_BONDED) bondsOf(atoms, elements, found);
    const ends = CORNERS.map((corner) => at(...corner));
    for (const [a, b] of EDGES) piecesOf(ends[a], ends[b], found);
    return { found, ends };
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    if (!crystal || !width) return;
    if (!ink) inherit();
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const scale = (zoom * 0.54 * Math.min(width, height)) / view.radius;
    const [x0, y0] = [width / 2, height / 2];
    pen.font = `600 11px ${font}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const { found, ends } = parts();
    for (const [, what, x, y, ...rest] of found.sort((a, b) => a[0] - b[0])) {
      const [px, py] = [x0 + x * scale, y0 - y * scale];
      if (what === "atom") ball(px, py, scale, rest[0], ratio);
      else {
        pen.lineWidth = what === "bond" ? Math.max(0.11 * scale, 1) : 1.1;
        pen.strokeStyle = what === "bond" ? ATOMS[rest[2] % 8] : ink;
        pen.beginPath();
        pen.moveTo(px, py);
        pen.lineTo(x0 + rest[0] * scale, y0 - rest[1] * scale);
        pen.stroke();
      }
    }
    pen.fillStyle = ink;
    pen.font = `italic 13px ${font}`;
    for (const [name, corner] of [["a", 1], ["b", 2], ["c", 4]]) {
      const [x, y] = [ends[corner][0] - ends[0][0], ends[corner][1] - ends[0][1]];
      const far = 20 / (Math.hypot(x, y) * scale || 1);
      pen.fillText(name, x0 + (ends[corner][0] + x * far) * scale, y0 - (ends[corner][1] + y * far) * scale);
    }
  }

  /** Colour and font of the page. */
  function inherit() {
    swatch.style.color = "var(--ink)";
    ink = getComputedStyle(swatch).color;
    font = getComputedStyle(host).fontFamily;
  }

  /** An atom: shaded once for each size, then copied. */
  function ball(x, y, scale, kind, ratio) {
    const { symbol, radius } = crystal.elements[kind];
    const r = Math.max(BALL * radius * scale, 2), key = `${kind} ${r.toFixed(1)} ${ratio}`;
    if (!balls.has(key)) {
      if (balls.size > 200) balls.clear();
      balls.set(key, shaded(ATOMS[kind % 8], r * ratio));
    }
    pen.drawImage(balls.get(key), x - r - 1, y - r - 1, 2 * r + 2, 2 * r + 2);
    if (r > 8) {
      pen.fillStyle = "#10171c";
      pen.fillText(symbol, x, y);
    }
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    dragged = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    rotate((event.clientX - dragged[0]) * TURN, (event.clientY - dragged[1]) * TURN);
    dragged = [event.clientX, event.clientY];
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (dragged = null));
  canvas.addEventListener("keydown", (event) => {
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
    const zooms = { "+": 1.15, "-": 1 / 1.15 };
    if (event.shiftKey && event.key in turns) rotate(...turns[event.key]);
    else if (event.key in zooms) zoom = clamp(zoom * zooms[event.key], 0.3, 8);
    else return;
    draw();
    event.preventDefault();
    event.stopPropagation();
  });

  function rotate(right, down) {
    turn = product(product(aboutX(down), aboutY(right)), turn);
    draw();
  }

  const recolour = () => {
    ink = "";
    draw();
  };
  const unwatch = watched(canvas, recolour, (wide, high) => {
    [width, height] = [wide, high];
    draw();
  });
  return {
    canvas,
    /** Draw this now: the caller keeps time. */
    show(next, how) {
      [crystal, view] = [next, how];
      canvas.setAttribute("aria-label", `${next.words}; drag or shift and arrow keys turn, + and - zoom`);
      paint();
    },
    /** Look along an axis of the cell (0, 1 or 2). */
    along(axis) {
      turn = alongAxis(crystal.lattice, axis);
      draw();
    },
    end() {
      cancelAnimationFrame(asked);
      unwatch();
    },
  };
}

/** Places along an axis at which an atom is drawn, those on the far faces included. */
function images(frac, repeat) {
  const found = [];
  for (let n = 0; n < repeat; n++) found.push(frac + n);
  if (frac < EDGE) found.push(frac + repeat);
  if (frac > 1 - EDGE) found.push(frac - 1);
  return found;
}

/** Bonds as two halves, each of its atom's colour. */
function bondsOf(atoms, elements, found) {
  const metals = elements.every(({ metal }) => metal); // else they bond to others alone
  for (let i = 0; i < atoms.length; i++) {
    const [x1, y1, z1, k1] = atoms[i];
    for (let j = 0; j < i; j++) {
      const [x2, y2, z2, k2] = atoms[j];
      if (!metals && elements[k1].metal && elements[k2].metal) continue;
      const most = BOND * (elements[k1].radius + elements[k2].radius);
      const square = (x1 - x2) ** 2 + (y1 - y2) ** 2 + (z1 - z2) ** 2;
      if (square > most * most || square < 0.16) continue;
      const [x, y, z] = [(x1 + x2) / 2, (y1 + y2) / 2, (z1 + z2) / 2];
      found.push([(3 * z1 + z) / 4 - 0.05, "bond", x1, y1, x, y, k1], [(3 * z2 + z) / 4 - 0.05, "bond", x2, y2, x, y, k2]);
    }
  }
}

function piecesOf([x1, y1, z1], [x2, y2, z2], found) {
  for (let n = 0; n < PIECES; n++) {
    const [s, t] = [n / PIECES, (n + 1) / PIECES];
    found.push([z1 + ((s + t) / 2) * (z2 - z1), "edge",
      x1 + s * (x2 - x1), y1 + s * (y2 - y1), x1 + t * (x2 - x1), y1 + t * (y2 - y1)]);
  }
}

/** A shaded disc of this radius in device pixels, on a canvas of its own. */
function shaded(colour, r) {
  const side = Math.ceil(2 * r) + 2, disc = make("canvas", { width: side, height: side });
  const pen = disc.getContext("2d"), middle = side / 2;
  const light = pen.createRadialGradient(middle - r / 3, middle - r / 3, r / 8, middle, middle, r);
  light.addColorStop(0, `color-mix(in srgb, ${colour} 45%, white)`);
  light.addColorStop(0.6, colour);
  light.addColorStop(1, `color-mix(in srgb, ${colour} 70%, black)`);
  pen.fillStyle = light;
  pen.strokeStyle = "#10171c";
  pen.beginPath();
  pen.arc(middle, middle, r - 0.5, 0, 2 * Math.PI);
  pen.fill();
  pen.stroke();
  return disc;
}

const aboutX = (t) => [1, 0, 0, 0, Math.cos(t), -Math.sin(t), 0, Math.sin(t), Math.cos(t)];
const aboutY = (t) => [Math.cos(t), 0, Math.sin(t), 0, 1, 0, -Math.sin(t), 0, Math.cos(t)];
const aboutZ = (t) => [Math.cos(t), -Math.sin(t), 0, Math.sin(t), Math.cos(t), 0, 0, 0, 1];
const product = (a, b) => a.map((_, i) => {
  const [row, column] = [3 * Math.floor(i / 3), i % 3];
  return a[row] * b[column] + a[row + 1] * b[column + 3] + a[row + 2] * b[column + 6];
});

/** The rotation that puts an axis of the cell towards the eye, the next one to the right. */
function alongAxis(lattice, axis) {
  const row = (i) => Array.from(lattice.slice(3 * (i % 3), 3 * (i % 3) + 3));
  const unit = (v) => v.map((x) => x / (Math.hypot(...v) || 1));
  const z = unit(row(axis)), next = row(axis + 1);
  const along = next[0] * z[0] + next[1] * z[1] + next[2] * z[2];
  const x = unit(next.map((value, i) => value - along * z[i]));
  const y = [z[1] * x[2] - z[2] * x[1], z[2] * x[0] - z[0] * x[2], z[0] * x[1] - z[1] * x[0]];
  return [...x, ...y, ...z];
}

/** How far from the middle anything of these cells is, in Å, at most. */
function radiusOf(lattices, repeat) {
  let most = 1;
  for (let i = 0; i < lattices.length; i += 9) {
    const rows = [0, 1, 2].map((k) => [0, 1, 2].map((j) => (repeat[k] * lattices[i + 3 * k + j]) / 2));
    for (const [s, t] of [[1, 1], [1, -1], [-1, 1], [-1, -1]]) {
      const far = Math.hypot(...[0, 1, 2].map((j) => rows[0][j] + s * rows[1][j] + t * rows[2][j]));
      if (Number.isFinite(far)) most = Math.max(most, far);
    }
  }
  return most + 0.8;
}

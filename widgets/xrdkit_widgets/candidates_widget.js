const COLUMNS = [ // name, heading, is a number, decimals
  ["rank", "no.", true, 0],
  ["formula", "formula", false],
  ["space_group", "space group", false],
  ["residual", "residual", true, 4],
  ["r_wp", "R_wp (%)", true, 2],
  ["score", "score", true, 1],
  ["volume", "V (Å³)", true, 1],
  ["density", "ρ (g/cm³)", true, 2],
  ["cell", "cell (Å, °)", false],
  ["origin", "origin", false],
  ["determined", "determined", false],
];
const MOST = 3; // drawn at once

export default {
  render({ model, el }) {
    const ends = [];
    const rows = model.get("rows");
    const columns = COLUMNS.filter(([name]) => name !== "r_wp" || rows.some((row) => row.r_wp !== null));
    const message = make("p", { className: "message said", role: "status" });
    const wrong = make("p", { className: "message", role: "alert" });
    const host = make("div"), body = make("tbody");
    const plot = patternPlot(host);
    ends.push(() => plot.end());
    let [by, descending] = ["rank", false];

    const heads = columns.map(([name, text, number]) => {
      const sort = button(text, () => {
        descending = by === name ? !descending : false;
        by = name;
        sortRows();
      });
      return make("th", { scope: "col", className: number ? "n" : "" }, sort);
    });
    const table = make("table", {}, make("thead", {}, make("tr", {},
      make("th", { scope: "col" }, make("span", {}, "draw")), make("th", { scope: "col" }, make("span", {}, "choose")),
      ...heads)), body);

    function sortRows() {
      heads.forEach((head, i) => {
        const own = columns[i][0] === by;
        head.ariaSort = own ? (descending ? "descending" : "ascending") : "none";
        head.firstChild.textContent = columns[i][1] + (own ? (descending ? " ▾" : " ▴") : "");
      });
      const order = (a, b) => (typeof a === "number" || typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
      const sorted = [...rows].sort((a, b) => order(a[by], b[by]) * (descending ? -1 : 1));
      body.replaceChildren(...sorted.map((row) => tableRow(row)));
      mark();
    }

    function tableRow(row) {
      const drawn = make("input", { type: "checkbox", ariaLabel: `draw structure ${row.rank}` });
      drawn.addEventListener("change", () => {
        const others = model.get("shown").filter((rank) => rank !== row.rank);
        tell(model, "shown", drawn.checked ? [...others, row.rank].slice(-MOST) : others);
      });
      const picked = make("input", { type: "checkbox", ariaLabel: `choose structure ${row.rank}` });
      picked.addEventListener("change", () => tell(model, "chosen", picked.checked ? row.rank : 0));
      const cells = columns.map(([name, , number, places]) =>
        make("td", { className: number ? "n" : name }, ...content(row, name, number, places)));
      const line = make("tr", {}, make("td", {}, drawn), make("td", {}, picked), ...cells);
      Object.assign(line, { rank: row.rank, drawn, picked });
      return line;
    }

    /** Which rows are chosen and drawn. */
    function mark() {
      for (const line of body.children) {
        line.picked.checked = line.rank === model.get("chosen");
        line.drawn.checked = model.get("shown").includes(line.rank);
        line.classList.toggle("chosen", line.picked.checked);
      }
    }

    const note = make("input", { type: "text", spellcheck: true });
    const noteFor = make("span", {}, "");
    const noted = () => String(model.get("chosen") || 1);
    note.addEventListener("change", () => tell(model, "notes", { ...model.get("notes"), [noted()]: note.value }));

    const exports = ["cif", "csv", "html", ...model.get("programs")].map((what) =>
      button(EXPORTS[what] ?? what, () => model.send({ kind: "export", what })));
    const files = make("div", { className: "row", role: "group", ariaLabel: "write files" },
      make("span", { className: "muted" }, "write"), ...exports,
      field(model, ends, "folder", "to folder", { beside: true }),
      field(model, ends, "replace", "replace files", { type: "checkbox" }));
    const axes = [["two_theta", "2θ"], ["q", "Q"], ["d", "d"]];
    const tools = make("div", { className: "row" },
      field(model, ends, "axis", "axis", { options: axes, beside: true }),
      field(model, ends, "root", "root of intensity", { type: "checkbox" }));

    fill(el, verdictOf(model.get("verdict"), rows.length));
    if (rows.length)
      fill(el, make("div", { className: "wide", tabIndex: 0, role: "region", ariaLabel: "ranked structures" }, table),
        tools, host, make("label", { className: "field" }, noteFor, note), files, wrong, message);
    ends.push(follow(model, ["view", "overlays", "shown", "axis", "root"], () => {
      const overlays = model.get("overlays");
      const fits = model.get("shown").map((rank) => overlays[rank]).filter(Boolean);
      plot.show({ ...decoded({ ...model.get("view"), fits }), axis: model.get("axis"), root: model.get("root") });
    }));
    ends.push(follow(model, ["chosen", "shown"], mark));
    ends.push(follow(model, ["chosen", "notes"], () => {
      noteFor.textContent = `note on structure ${noted()}`;
      note.value = model.get("notes")[noted()] ?? "";
    }));
    ends.push(follow(model, ["message"], () => (message.textContent = model.get("message"))));
    ends.push(follow(model, ["errors"], () => (wrong.textContent = model.get("errors").export ?? "")));
    sortRows();
    return () => ends.forEach((end) => end());
  },
};

const EXPORTS = { cif: "CIF", csv: "CSV", html: "HTML report", topas: "TOPAS", fullprof: "FullProf", gsas2: "GSAS-II" };

/** What stands in a cell of the table. */
function content(row, name, number, places) {
  if (number) return [row[name] === null ? "–" : row[name].toFixed(places)];
  if (name === "space_group") return [`${row.space_group} (${row.number})`, make("small", {}, row.sites)];
  if (name === "origin") return [row.origin, make("small", {}, row.known ? `known: ${row.known}` : "")];
  if (name === "determined") {
    const told = row.determined.length || row.undetermined.length;
    const open = row.undetermined.length ? `not: ${row.undetermined.join("; ")}` : told ? "all" : "not looked at";
    return [make("span", { title: row.determined.join("; ") }, open)];
  }
  return [row[name]];
}

function verdictOf({ verdict, confidence, reasons }, count) {
  const words = `${count} structures · ${verdict}, confidence ${confidenceText(confidence)}`;
  const list = make("ul", {}, ...reasons.map((text) => make("li", {}, text)));
  return make("div", { className: `verdict ${verdict}` }, make("strong", {}, count ? words : "no structure found"), list);
}

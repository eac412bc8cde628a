const ENTRIES = [ // key of a row, heading, what a screen reader says
  ["value", "value", "value"],
  ["esd", "e.s.d.", ""],
  ["low", "from", "lower limit"],
  ["high", "to", "upper limit"],
  ["tie", "constraint", "constraint"],
  ["restraint", "restraint", "restraint"],
];
const OF_U = [["site", "for each site"], ["element", "for each element"], ["overall", "one for all"]];

export default {
  render({ model, el }) {
    const ends = [];
    const host = make("div");
    const plot = patternPlot(host);
    ends.push(() => plot.end());
    const busy = () => ["running", "stopping"].includes(model.get("state"));

    const run = button("Refine in stages", () => model.send({ kind: "run", marked: false }), { className: "main" });
    const own = button("Refine what is marked", () => model.send({ kind: "run", marked: true }));
    const stop = button("Stop", () => model.send({ kind: "stop" }));
    const bar = make("progress", { max: 1, ariaLabel: "progress of this refinement" });
    const pace = make("span", { className: "muted pace", role: "status" });
    const message = make("p", { className: "message", role: "alert" });
    const figures = make("div", { className: "figures", role: "group", ariaLabel: "R values" });
    const warnings = make("ul", { className: "muted" });

    const undo = button("Undo", () => model.send({ kind: "go", place: model.get("place") - 1 }));
    const redo = button("Redo", () => model.send({ kind: "go", place: model.get("place") + 1 }));
    const states = make("select", { ariaLabel: "history" });
    states.addEventListener("change", () => model.send({ kind: "go", place: states.selectedIndex }));
    const history = make("div", { className: "row" }, undo, redo,
      make("label", { className: "field beside history" }, make("span", {}, "history"), states));

    const names = make("input", { type: "text", placeholder: "u:* or background:*", ariaLabel: "parameters by name or pattern", spellcheck: false });
    const mark = (refine) => names.value.trim() && model.send({ kind: "mark", names: [names.value.trim()], refine });
    names.addEventListener("keydown", (event) => event.key === "Enter" && mark(true));
    const byName = make("span", { className: "entry" }, names,
      button("refine", () => mark(true), { ariaLabel: "refine these parameters" }),
      button("fix", () => mark(false), { ariaLabel: "fix these parameters" }));

    const more = make("details", {}, make("summary", {}, "how to refine in stages"), make("div", { className: "form" },
      field(model, ends, "terms", "background terms (0: as many as it needs)", { type: "number", min: 0, max: 100 }),
      field(model, ends, "displacement", "displacement parameters", { options: OF_U }),
      field(model, ends, "occupancies", "shared and partial occupancies", { type: "checkbox" }),
      field(model, ends, "texture", "preferred orientation, if any", { type: "checkbox" })));
    const tools = make("div", { className: "row" },
      field(model, ends, "axis", "axis", { options: [["two_theta", "2θ"], ["q", "Q"], ["d", "d"]], beside: true }),
      field(model, ends, "root", "root of intensity", { type: "checkbox" }));
    const said = make("p", { className: "message said", role: "status" });
    const write = button("write CIF", () => model.send({ kind: "export" }));
    const files = make("div", { className: "row", role: "group", ariaLabel: "write the fit" }, write,
      field(model, ends, "file", "to file", { beside: true }),
      field(model, ends, "replace", "replace file", { type: "checkbox" }));

    const { element: table, update, enable } = parameterTable(model);
    fill(el, make("div", { className: "bar" }, run, own, stop, bar, pace), more, figures, tools, host,
      history, make("div", { className: "row" }, byName),
      make("div", { className: "wide parameters", tabIndex: 0, role: "region", ariaLabel: "parameters" }, table),
      message, warnings, files, said);

    ends.push(follow(model, ["view", "axis", "root"], () =>
      plot.show({ ...decoded(model.get("view")), axis: model.get("axis"), root: model.get("root") })));
    ends.push(follow(model, ["message"], () => (message.textContent = model.get("message"))));
    ends.push(follow(model, ["said"], () => (said.textContent = model.get("said"))));
    ends.push(follow(model, ["warnings"], () => warnings.replaceChildren(
      ...model.get("warnings").map((text) => make("li", {}, text)))));
    ends.push(follow(model, ["figures"], () => figures.replaceChildren(
      ...Object.entries(model.get("figures")).map(([name, text]) => make("span", {}, `${name} `, make("b", {}, text))))));
    ends.push(follow(model, ["history", "place", "state"], () => {
      const all = model.get("history"), place = model.get("place");
      states.replaceChildren(...all.map((text, i) => make("option", {}, `${i + 1}. ${text}`)));
      states.selectedIndex = place;
      undo.disabled = busy() || place === 0;
      redo.disabled = busy() || place >= all.length - 1;
      states.disabled = busy();
    }));
    ends.push(follow(model, ["state", "progress"], () => {
      const state = model.get("state");
      run.disabled = own.disabled = write.disabled = busy();
      stop.disabled = state !== "running";
      bar.hidden = !busy();
      const { done = 0, total = 1 } = model.get("progress");
      bar.value = total ? done / total : 0;
      pace.textContent = paceWords(state, model.get("progress"));
      enable(!busy());
    }));
    ends.push(follow(model, ["rows", "errors"], update));
    return () => ends.forEach((end) => end());
  },
};

/** The parameters under their headings; rows stay where their names do. */
function parameterTable(model) {
  const heads = ["refine", "parameter", ...ENTRIES.map(([, text]) => text)];
  const element = make("table", {}, make("thead", {}, make("tr", {},
    ...heads.map((text) => make("th", { scope: "col" }, make("span", {}, text))))));
  let lines = new Map(), usable = true;

  function update() {
    const rows = model.get("rows"), names = rows.map((row) => row.name);
    if (names.join() !== [...lines.keys()].join()) build(rows);
    for (const row of rows) lines.get(row.name)(row, model.get("errors"));
    for (const heading of element.querySelectorAll("tr.heading")) count(heading, rows);
    enable(usable);
  }

  function build(rows) {
    lines = new Map();
    for (const body of [...element.tBodies]) body.remove();
    for (const group of new Set(rows.map((row) => row.group))) {
      const own = rows.filter((row) => row.group === group);
      const all = make("input", { type: "checkbox", ariaLabel: `refine all of ${group}` });
      all.addEventListener("change", () =>
        model.send({ kind: "mark", names: own.map((row) => row.name), refine: all.checked }));
      const fold = button("", () => {
        const shut = body.classList.toggle("shut");
        fold.ariaExpanded = String(!shut);
      }, { ariaExpanded: String(group !== "background") });
      const heading = make("tr", { className: "heading" }, make("td", {}, all), make("td", { colSpan: 7 }, fold));
      heading.group = group;
      const body = make("tbody", {}, heading, ...own.map(line));
      body.classList.toggle("shut", group === "background");
      element.append(body);
    }
  }

  function line({ name }) {
    const send = (key, text) => model.send({ kind: "edit", name, key, text });
    const box = make("input", { type: "checkbox", ariaLabel: `refine ${name}` });
    box.addEventListener("change", () => send("refine", box.checked));
    const entries = ENTRIES.map(([key, , text]) => {
      if (key === "esd") return make("span");
      const input = make("input", { type: "text", ariaLabel: `${text} of ${name}`, spellcheck: false, autocomplete: "off" });
      const commit = () => {
        if (input.value !== input.told) send(key, input.value);
        input.told = input.value;
      };
      input.addEventListener("change", commit);
      input.addEventListener("keydown", (event) => {
        if (event.key === "Enter") commit();
        if (event.key === "Escape") input.value = input.told;
      });
      return input;
    });
    const cells = entries.map((entry, i) => make("td", { className: ENTRIES[i][0] }, entry));
    const row = make("tr", {}, make("td", {}, box), make("td", { className: "name" }, name), ...cells);
    lines.set(name, (told, errors) => {
      box.checked = told.refine;
      box.shut = !told.open && !told.refine;
      row.classList.toggle("refined", told.refine);
      entries.forEach((entry, i) => {
        const key = ENTRIES[i][0], wrong = Boolean(errors[`${name} ${key}`]);
        if (key === "esd") entry.textContent = told.esd;
        else {
          if (!wrong && (entry !== document.activeElement || entry.value === entry.told)) entry.value = told[key];
          if (!wrong) entry.told = told[key];
          entry.setAttribute("aria-invalid", String(wrong));
        }
      });
    });
    return row;
  }

  /** How many of a group are refined. */
  function count(heading, rows) {
    const own = rows.filter((row) => row.group === heading.group);
    const [all, fold] = heading.querySelectorAll("input, button");
    const refined = own.filter((row) => row.refine).length, free = own.filter((row) => row.open).length;
    fold.textContent = `${heading.group} · ${refined} of ${own.length} refined`;
    all.checked = refined > 0 && refined >= free;
    all.indeterminate = refined > 0 && refined < free;
    all.shut = free === 0;
  }

  /** Nothing can be changed while a refinement goes on. */
  function enable(on) {
    usable = on;
    for (const input of element.querySelectorAll("tbody input")) input.disabled = !on || Boolean(input.shut);
  }

  return { element, update, enable };
}

function paceWords(state, { stage, done, total, message, seconds }) {
  if (state === "done") return seconds === undefined ? "done" : `done in ${seconds} s`;
  if (state === "stopped") return "stopped; what was reached is kept";
  if (state === "stopping") return "stopping after this cycle …";
  if (state !== "running") return "";
  if (!stage) return "starting …";
  return [`${stage}, ${done} of ${total}`, message, `${seconds.toFixed(1)} s`].filter(Boolean).join(" · ");
}

const PRESETS = ["CuKa", "CuKa1", "CoKa", "CoKa1", "MoKa", "MoKa1", "AgKa", "CrKa", "FeKa"];
const VERDICTS = {
  confident: "The first structure is very probably right.",
  tentative: "The first structure may be right; check it before you rely on it.",
  none: "No structure here explains the pattern.",
};

export default {
  render({ model, el }) {
    const ends = [];
    const file = dropZone(model, "file", "drop a measured pattern here, or");
    const fileSaid = make("small", { className: "objection", role: "status" });
    const chosen = make("div", { className: "muted" });
    const list = make("datalist", { id: `xrdkit-${crypto.randomUUID()}` },
      ...PRESETS.map((value) => make("option", { value })));
    const formula = field(model, ends, "formula", "formula", { placeholder: "TiO2, or elements: Ti-O" });
    const wavelength = field(model, ends, "wavelength", "radiation, or λ in Å", { placeholder: "as the file says" });
    wavelength.querySelector("input").setAttribute("list", list.id);

    const more = make("details", {}, make("summary", {}, "what else is known, and how to search"), make("div", { className: "form" },
      field(model, ends, "cell", "cell a b c α β γ (Å, °)", { placeholder: "not known" }),
      field(model, ends, "space_group", "space group", { placeholder: "not known" }),
      field(model, ends, "contents", "contents of the cell", { placeholder: "not known, or Ti2 O4" }),
      field(model, ends, "phases", "other phases in the sample", { placeholder: "Al2O3, holder.cif" }),
      field(model, ends, "size", "size of nanocrystals (Å)", { placeholder: "not nano" }),
      field(model, ends, "weights", "network that draws", { placeholder: "flow_mp20, or a file" }),
      field(model, ends, "steps", "steps of a drawing", { type: "number", min: 2, max: 1000 }),
      field(model, ends, "guidance", "guidance by the pattern", { type: "number", min: 0, max: 10, step: 0.1 }),
      field(model, ends, "candidates", "candidates to keep", { type: "number", min: 1, max: 200 }),
      field(model, ends, "seed", "seed", { type: "number", min: 0 }),
      field(model, ends, "engine", "full profile of the best", {
        options: [["", "no"], ...model.get("engines").map((name) => [name, name])],
      }),
      field(model, ends, "index", "look for cells in the lines first", { type: "checkbox" }),
      sources(model, ends)));

    const run = button("Run", () => model.send({ kind: "run" }), { className: "main" });
    const stop = button("Stop", () => model.send({ kind: "stop" }));
    const bar = make("progress", { max: 1, ariaLabel: "progress of this step" });
    const said = make("span", { className: "muted pace", role: "status" });
    const message = make("p", { className: "message", role: "alert" });
    const warnings = make("ul", { className: "muted" });
    const answer = make("div", { role: "status" });
    const host = make("div");
    const plot = patternPlot(host);
    ends.push(() => plot.end());

    fill(el, file, fileSaid, chosen, list, make("div", { className: "form" }, formula, wavelength), more,
      make("div", { className: "bar" }, run, stop, bar, said), message, answer, host, warnings);
    el.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target.matches("input[type='text']")) run.click();
    });

    ends.push(follow(model, ["view"], () => plot.show(decoded(model.get("view")))));
    ends.push(follow(model, ["chosen"], () => (chosen.textContent = model.get("chosen"))));
    ends.push(follow(model, ["errors"], () => (fileSaid.textContent = model.get("errors").file ?? "")));
    ends.push(follow(model, ["message"], () => (message.textContent = model.get("message"))));
    ends.push(follow(model, ["warnings"], () => warnings.replaceChildren(
      ...model.get("warnings").map((text) => make("li", {}, text)))));
    ends.push(follow(model, ["state", "progress"], () => {
      const state = model.get("state"), busy = state === "running" || state === "stopping";
      run.disabled = busy;
      stop.disabled = state !== "running";
      bar.hidden = !busy;
      const { done = 0, total = 1 } = model.get("progress");
      bar.value = total ? done / total : 0;
      said.textContent = progressWords(state, model.get("progress"));
    }));
    ends.push(follow(model, ["answer"], () => answer.replaceChildren(...answerParts(model.get("answer")))));
    return () => ends.forEach((end) => end());
  },
};

/** Check boxes of the sources of candidates. */
function sources(model, ends) {
  const boxes = model.get("known_sources").map((name) => {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => {
      const wanted = new Set(model.get("sources"));
      wanted[box.checked ? "add" : "delete"](name);
      tell(model, "sources", model.get("known_sources").filter((one) => wanted.has(one)));
    });
    ends.push(follow(model, ["sources"], () => (box.checked = model.get("sources").includes(name))));
    return make("label", { className: "check" }, box, name);
  });
  return make("fieldset", {}, make("legend", {}, "sources of candidates"), ...boxes);
}

function progressWords(state, { stage, done, total, message, seconds, left }) {
  if (state === "stopped") return "stopped";
  if (state === "done") return seconds === undefined ? "done" : `done in ${seconds} s`;
  if (state === "stopping") return "stopping at the next step …";
  if (state !== "running") return "";
  if (!stage) return "starting …";
  const parts = [`${stage} ${done} of ${total}`, message, `${seconds.toFixed(0)} s`];
  if (left >= 0) parts.push(`about ${left.toFixed(0)} s left of this step`);
  return parts.filter(Boolean).join(" · ");
}

function answerParts({ verdict, confidence, reasons, best, count }) {
  if (!verdict) return [];
  const head = make("strong", {}, VERDICTS[verdict]);
  const first = best ? ` ${best}; ${count} structures, confidence ${confidenceText(confidence)}` : "";
  const list = make("ul", {}, ...reasons.map((text) => make("li", {}, text)));
  return [make("div", { className: `verdict ${verdict}` }, head, first, list)];
}

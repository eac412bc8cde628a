export default {
  render({ model, el }) {
    const ends = [];
    const host = make("div"), tools = make("div", { className: "row" });
    const left = make("div", { className: "row" }), phases = make("div", { className: "row" });
    const message = make("p", { className: "message", role: "alert" });
    let leavesOut = false;

    const plot = patternPlot(host, {
      excluding: () => leavesOut,
      exclude: (low, high) => leaveOut(low, high),
    });
    ends.push(() => plot.end());

    function leaveOut(low, high) {
      const ranges = [...model.get("excluded"), [low, high].map((v) => Number(v.toFixed(3)))];
      tell(model, "excluded", ranges.sort((a, b) => a[0] - b[0]));
    }

    const zoomTool = button("zoom", () => choose(false));
    const outTool = button("leave out", () => choose(true));
    function choose(out) {
      leavesOut = out;
      zoomTool.ariaPressed = String(!out);
      outTool.ariaPressed = String(out);
    }
    choose(false);

    const axes = [["two_theta", "2θ"], ["q", "Q"], ["d", "d"]];
    tools.append(
      make("span", { role: "group", ariaLabel: "dragging means", className: "row" },
        make("span", { className: "muted" }, "dragging"), zoomTool, outTool),
      field(model, ends, "subtract", "background off", { type: "checkbox" }),
      field(model, ends, "root", "root of intensity", { type: "checkbox" }),
      field(model, ends, "axis", "axis", { options: axes, beside: true }),
    );

    const low = make("input", { type: "number", step: "any", ariaLabel: "leave out from, ° 2θ", size: 7 });
    const high = make("input", { type: "number", step: "any", ariaLabel: "leave out to, ° 2θ", size: 7 });
    const add = button("add", () => {
      if (low.value && high.value) leaveOut(low.valueAsNumber, high.valueAsNumber);
    }, { ariaLabel: "leave out this range" });
    const chips = make("span", { className: "row" });
    left.append(make("span", { className: "muted" }, "left out (°)"), low, "–", high, add, chips);

    const typedCell = make("input", {
      type: "text", placeholder: "cell: 4.594 4.594 2.959 90 90 90, or a CIF file", ariaLabel: "cell or CIF file",
    });
    const send = () => model.send({ kind: "ticks", text: typedCell.value });
    typedCell.addEventListener("keydown", (event) => event.key === "Enter" && send());
    const known = make("span", { className: "row" });
    const entry = make("span", { className: "entry" }, typedCell, button("add lines", send));
    phases.append(entry, dropZone(model, "file", "drop a CIF here, or", ".cif"), known);

    fill(el, tools, host, message, left, phases);
    const draw = () => {
      const told = { ticks: model.get("ticks"), excluded: model.get("excluded") };
      plot.show({ ...decoded(model.get("view")), ...told, axis: model.get("axis"), root: model.get("root") });
    };
    ends.push(follow(model, ["view", "ticks", "excluded", "axis", "root"], draw));
    ends.push(follow(model, ["message"], () => (message.textContent = model.get("message"))));
    ends.push(follow(model, ["excluded"], () => chips.replaceChildren(
      ...model.get("excluded").map((range, i) => chip(`${range[0]}–${range[1]}°`, () =>
        tell(model, "excluded", model.get("excluded").filter((_, k) => k !== i)))))));
    ends.push(follow(model, ["ticks"], () => known.replaceChildren(
      ...model.get("ticks").map(({ name }, index) => chip(name, () => model.send({ kind: "remove", index }))))));
    return () => ends.forEach((end) => end());
  },
};

/** A word with a cross that takes it away. */
function chip(text, away) {
  return button(`${text} ×`, away, { ariaLabel: `take away ${text}` });
}

// Fields that the widgets share. The files of a widget are joined into one ES module
// (front.py), behind the plot of the reports, so nothing is imported.

/** Call back now and whenever one of these traits changes; returns what ends that. */
function follow(model, names, back) {
  for (const name of names) model.on(`change:${name}`, back);
  back();
  return () => {
    for (const name of names) model.off(`change:${name}`, back);
  };
}

/** Write a trait and tell the kernel. */
function tell(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

/** A labelled input bound to a trait, with the kernel's objection to it underneath. */
function field(model, ends, name, label, properties = {}) {
  const { options, beside, ...rest } = properties;
  const input = options
    ? make("select", rest, ...options.map(([value, text]) => make("option", { value }, text)))
    : make("input", { type: "text", spellcheck: false, autocomplete: "off", ...rest });
  const kind = input.type === "checkbox" ? "checked" : "value";
  const objection = make("small", { className: "objection", role: "status" });
  const whole = !(Number(input.step) % 1);
  const number = () => (whole ? Math.round(input.valueAsNumber) : input.valueAsNumber);
  const read = () => (input.type === "number" ? number() : input[kind]);
  let typing;
  const write = () => {
    clearTimeout(typing);
    const value = read();
    if (!Number.isNaN(value) && value !== model.get(name)) tell(model, name, value);
  };
  input.addEventListener("change", write);
  input.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(write, 200);
  });
  ends.push(follow(model, [name], () => {
    if (read() !== model.get(name)) input[kind] = model.get(name);
  }));
  ends.push(follow(model, ["errors"], () => {
    objection.textContent = model.get("errors")?.[name] ?? "";
    input.setAttribute("aria-invalid", String(Boolean(objection.textContent)));
  }));
  ends.push(() => clearTimeout(typing));
  const words = make("span", {}, label);
  return kind === "checked"
    ? make("label", { className: "check" }, input, words)
    : make("label", { className: beside ? "field beside" : "field" }, words, input, objection);
}

/** A button that says what it does. */
function button(text, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, text);
}

/** A place to drop a file on, or to choose it: sent as bytes under {kind}. */
function dropZone(model, kind, text, accept = "") {
  const input = make("input", { type: "file", accept });
  const chooser = make("span", { className: "chooser" }, "choose a file");
  const zone = make("label", { className: "drop" }, make("span", {}, text), chooser, input);
  const send = async (file) => {
    if (!file) return;
    const most = model.get("most_bytes");
    const small = file.size <= most;
    const bytes = small ? [await file.arrayBuffer()] : [];
    model.send({ kind, name: file.name, size: file.size }, undefined, bytes);
    input.value = "";
  };
  input.addEventListener("change", () => send(input.files[0]));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.stopPropagation();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    zone.classList.remove("over");
    send(event.dataTransfer.files[0]);
  });
  return zone;
}

/** A probability to two decimals; nothing is certain. */
function confidenceText(value) {
  return value > 0.99 ? "over 0.99" : value.toFixed(2);
}

/** Fill the widget's element; where it has the focus, Jupyter's own keys do nothing. */
function fill(el, ...children) {
  el.classList.add("xrdkit");
  el.dataset.lmSuppressShortcuts = "true";
  el.append(...children);
}

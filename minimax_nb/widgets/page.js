// What the pages of all widgets begin with: see page.py.

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function button(label, press) {
  const made = node("button", { type: "button" }, label);
  made.addEventListener("click", press);
  return made;
}

// Not `disabled`: that would take the focus away from a button while it is pressed.
function enable(each, on) {
  each.setAttribute("aria-disabled", !on);
}

// What a page says in the language of its widget. Each text is written as one string, because page.py looks for it so.
function speaker(model) {
  const words = model.get("words");
  const value = (values) => (whole, name) => values[name];
  return (text, values = {}) => (words[text] ?? text).replace(/\{(\w+)\}/g, value(values));
}

// Ties a field to a value of the kernel's. `follow` takes that value where it has changed there and is not the answer to
// what the field has sent itself; otherwise what is being typed meanwhile would be undone. `again` takes it always.
function tied(input, read, write, change) {
  let known, sent; // the kernel's value as last seen, and the field's as last sent
  input.addEventListener("change", () => change((sent = read())));
  const again = (value) => {
    write(value);
    known = value;
    sent = undefined;
  };
  const follow = (value) => {
    if (value === sent) known = value;
    else if (value !== known) again(value);
  };
  return { follow, again };
}

// A labelled input for one Control of controls.py.
function control({ name, label, kind, low, high, step, options, labels }, change) {
  const types = { slider: "range", number: "number", switch: "checkbox", text: "text" };
  const numeric = kind === "slider" || kind === "number";
  const limits = numeric ? { min: low, max: high, step } : {};
  const input = kind === "list" ? node("select", { name }) : node("input", { type: types[kind], name, ...limits });
  if (kind === "list") input.append(...options.map((value, at) => node("option", { value }, labels[at])));
  const figure = node("span", { "aria-hidden": "true", class: "mmnb-value" }); // a slider reads its value out itself
  const figures = () => (figure.textContent = input.value);
  input.addEventListener("input", figures);

  const read = () => {
    if (kind === "switch") return input.checked;
    if (!numeric) return input.value;
    return input.value === "" ? null : Number(input.value);
  };
  const write = (value) => {
    if (kind === "switch") input.checked = value;
    else input.value = value ?? "";
    figures();
  };
  const parts = kind === "switch" ? [input, label] : [label, input];
  const row = node("div", { class: `mmnb-setting mmnb-${kind}` }, node("label", {}, ...parts));
  if (kind === "slider") row.append(figure);
  return { name, row, ...tied(input, read, write, (value) => change(name, value)) };
}

// Asks the kernel for one thing after the other, each when the one before was heard. A key that is held down makes many
// values of one control: of those that wait, a slow kernel gets the newest only. `late` is a line that says so while
// the kernel does not answer: a slider moves at once, and without the line its picture would seem to be wrong.
function asker(model) {
  const late = node("p", { class: "mmnb-late", "aria-live": "polite" });
  const tr = speaker(model);
  const words = tr("The kernel is busy, and this waits for it. If it has ended, run the cell or load the page again.");
  const waiting = [];
  let timer; // set while something is asked and not heard

  const next = () => {
    if (timer || !waiting.length) return;
    timer = setTimeout(() => (late.textContent = words), 700);
    model.send(waiting.shift());
  };
  const heard = () => {
    clearTimeout(timer);
    timer = undefined;
    late.textContent = "";
    next();
  };
  const same = (one, other) => one.do === other.do && one.name === other.name;
  const repeats = (asked) => ["set", "set_system", "look"].includes(asked.do);

  const ask = (action, rest = {}) => {
    const asked = { do: action, ...rest };
    if (repeats(asked) && waiting.length && same(waiting.at(-1), asked)) waiting.pop();
    waiting.push(asked);
    next();
  };
  const waits = (action, name) => waiting.some((each) => same(each, { do: action, name }));
  model.on("msg:custom", heard);
  const end = () => {
    clearTimeout(timer);
    model.off("msg:custom", heard);
  };
  return { ask, waits, late, end };
}

// Puts the page where it belongs and draws it after each change. What is returned takes it away again.
function show({ model, el }, root, { ask, end }, draw) {
  // A page of a saved notebook has no kernel behind it. There the still picture says more.
  if (document.querySelector('script[type="application/vnd.jupyter.widget-state+json"]')) return end;
  el.append(node("style", {}, `[data-mmnb-still="${model.get("still")}"] { display: none; }`), root);

  root.lang = model.get("language");

  // Else arrow keys, Enter and others would be JupyterLab's commands: it asks the focused element itself.
  for (const each of [root, ...root.querySelectorAll("*")]) each.dataset.lmSuppressShortcuts = "true";
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && model.get("busy")) ask("stop");
    event.stopPropagation(); // JupyterLab's cell would take Enter, with which a field is done
  });
  model.on("change", draw);
  draw();
  return () => {
    model.off("change", draw);
    end();
  };
}

// The page of an explorer. It draws the traits of explorer_view.py and sends {do: ...}; it decides nothing.
// Controls are built once and changed in place, so that focus and screen readers keep their place. The picture is
// replaced as a whole; a button in it, <button data-name="..." data-value="...">, sets a value, and keeps the focus.

// A labelled input. `follow` takes the kernel's value, unless it has not changed there while something is being typed.
function control({ name, label, kind, low, high, step, options }, change) {
  const types = { slider: "range", number: "number", switch: "checkbox", text: "text" };
  const limits = kind === "slider" || kind === "number" ? { min: low, step, ...(high === null ? {} : { max: high }) } : {};
  const input = kind === "list" ? node("select", { name }) : node("input", { type: types[kind], name, ...limits });
  if (kind === "list") input.append(...options.map((option) => node("option", { value: option }, option)));
  const shown = node("span", { "aria-hidden": "true", class: "mmnb-value" }); // a slider reads its value out itself
  const show = () => (shown.textContent = input.value);
  const value = () => {
    if (kind === "switch") return input.checked;
    if (kind === "list" || kind === "text") return input.value;
    return input.value === "" ? null : Number(input.value);
  };
  let known;
  input.addEventListener("input", show);
  input.addEventListener("change", () => change(name, value()));
  const follow = (value, always) => {
    if (always || value !== known) kind === "switch" ? (input.checked = value) : (input.value = value);
    known = value;
    show();
  };
  const words = kind === "switch" ? [input, label] : [label, input];
  const row = node("div", { class: `mmnb-setting mmnb-${kind}` }, node("label", {}, ...words));
  if (kind === "slider") row.append(shown);
  return { name, follow, row };
}

// Asks the kernel for one thing after the other, each when the one before is answered. A key that is held down makes
// many values of one control: of those that wait a slow kernel gets the newest only.
function asker(model) {
  const waiting = [];
  let asked = false;
  const next = () => {
    if (asked || !waiting.length) return;
    asked = true;
    model.send(waiting.shift());
  };
  const heard = () => {
    asked = false;
    next();
  };
  const sets = (each, name) => each?.do === "set" && each.name === name;
  const ask = (action, rest = {}) => {
    if (action === "set" && sets(waiting.at(-1), rest.name)) waiting.pop();
    waiting.push({ do: action, ...rest });
    next();
  };
  const waits = (name) => waiting.some((each) => sets(each, name));
  model.on("msg:custom", heard);
  return { ask, waits, end: () => model.off("msg:custom", heard) };
}

function render({ model, el }) {
  const { ask, waits, end } = asker(model);

  const set = (name, value) => ask("set", { name, value });
  const controls = model.get("controls").map((each) => control(each, set));
  const start = button(model.get("action"), () => ask("start"));
  const stop = button("Stop", () => ask("stop"));
  const reset = button("Reset", () => {
    ask("reset");
    controls.forEach((each) => each.follow(model.get("values")[each.name], true));
  });
  const status = node("p", { role: "status", class: "mmnb-status" });
  const picture = node("div", { class: "mmnb-picture", role: "group", "aria-label": "Picture", tabindex: "-1" });
  const root = node(
    "section",
    { class: "mmnb-widget mmnb-explorer", "aria-label": model.get("title") },
    node("div", { class: "mmnb-controls" }, ...controls.map((each) => each.row)),
    node("div", { class: "mmnb-buttons" }, ...(model.get("action") ? [start, stop] : []), reset),
    status,
    picture,
    node("p", { class: "mmnb-hint" }, model.get("hint")),
  );
  // Else arrow keys, Enter and others would be JupyterLab's commands: it asks the focused element itself.
  root.dataset.lmSuppressShortcuts = "true";
  for (const each of root.querySelectorAll("*")) each.dataset.lmSuppressShortcuts = "true";
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && model.get("busy")) ask("stop");
    event.stopPropagation(); // JupyterLab's cell would take Enter, with which a field is done
  });
  picture.addEventListener("click", (event) => {
    const pressed = event.target.closest("button[data-name]");
    if (pressed) set(pressed.dataset.name, Number(pressed.dataset.value));
  });
  // What is too wide is scrolled, and by arrow keys only where the focus can come.
  const room = new ResizeObserver(() => (picture.tabIndex = picture.scrollWidth > picture.clientWidth ? 0 : -1));

  let drawn; // the picture that is shown

  function redraw() {
    const { name, value } = picture.contains(document.activeElement) ? document.activeElement.dataset : {};
    picture.innerHTML = drawn = model.get("picture");
    for (const each of picture.querySelectorAll("*")) each.dataset.lmSuppressShortcuts = "true";
    if (name) (picture.querySelector(`button[data-name="${name}"][data-value="${value}"]`) ?? picture).focus();
    room.disconnect();
    for (const each of [picture, ...picture.children]) room.observe(each);
  }

  function draw() {
    for (const each of controls) if (!waits(each.name)) each.follow(model.get("values")[each.name]);
    if (model.get("picture") !== drawn) redraw();
    if (status.textContent !== model.get("status")) status.textContent = model.get("status");
    // Not `disabled`: that would take the focus away from a button while it is pressed.
    start.setAttribute("aria-disabled", model.get("busy"));
    stop.setAttribute("aria-disabled", !model.get("busy"));
  }

  model.on("change", draw);
  el.append(root);
  draw();
  return () => {
    model.off("change", draw);
    room.disconnect();
    end();
  };
}

export default { render };

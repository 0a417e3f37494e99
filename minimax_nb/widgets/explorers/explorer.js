// The page of an explorer. It draws the traits of view.py and sends {do: ...}; it decides nothing.
// Controls are built once and changed in place, so that focus and screen readers keep their place. The picture is
// replaced as a whole; a button in it, <button data-name="..." data-value="...">, sets a value, and keeps the focus.

function render({ model, el }) {
  const asking = asker(model);
  const { ask, waits, late } = asking;
  const tr = speaker(model);

  const set = (name, value) => ask("set", { name, value });
  const controls = model.get("controls").map((each) => control(each, set));
  const start = button(model.get("action"), () => ask("start"));
  const stop = button(tr("Stop"), () => ask("stop"));
  const reset = button(tr("Reset"), () => {
    ask("reset");
    controls.forEach((each) => each.again(model.get("values")[each.name]));
  });
  const status = node("p", { role: "status", class: "mmnb-status" });
  const picture = node("div", { class: "mmnb-picture", role: "group", "aria-label": tr("Picture"), tabindex: "-1" });
  const root = node(
    "section",
    { class: "mmnb-widget mmnb-explorer", "aria-label": model.get("title") },
    node("div", { class: "mmnb-controls" }, ...controls.map((each) => each.row)),
    node("div", { class: "mmnb-buttons" }, ...(model.get("action") ? [start, stop] : []), reset),
    late,
    status,
    picture,
    node("p", { class: "mmnb-hint" }, model.get("hint")),
  );
  picture.addEventListener("click", (event) => {
    const pressed = event.target.closest("button[data-name]");
    if (pressed) set(pressed.dataset.name, Number(pressed.dataset.value));
  });
  // What is too wide is scrolled, and by arrow keys only where the focus can come.
  const room = new ResizeObserver(() => (picture.tabIndex = picture.scrollWidth > picture.clientWidth ? 0 : -1));

  let drawn; // the picture that is on the page

  function redraw() {
    const { name, value } = picture.contains(document.activeElement) ? document.activeElement.dataset : {};
    picture.innerHTML = drawn = model.get("picture");
    for (const each of picture.querySelectorAll("*")) each.dataset.lmSuppressShortcuts = "true";
    if (name) (picture.querySelector(`button[data-name="${name}"][data-value="${value}"]`) ?? picture).focus();
    room.disconnect();
    for (const each of [picture, ...picture.children]) room.observe(each);
  }

  function draw() {
    for (const each of controls) if (!waits("set", each.name)) each.follow(model.get("values")[each.name]);
    if (model.get("picture") !== drawn) redraw();
    if (status.textContent !== model.get("status")) status.textContent = model.get("status");
    enable(start, !model.get("busy"));
    enable(stop, model.get("busy"));
  }

  const away = show({ model, el }, root, asking, draw);
  return () => {
    room.disconnect();
    away();
  };
}

export default { render };

// The page of the playground. It draws the traits of playground_view.py and sends {do: ...}; it decides nothing.
// Nodes are built once and changed in place, so that focus, scrolling and screen readers keep their place.

function node(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// A labelled input for one setting: a slider where both ends are known and it is not a whole number. `follow` takes the
// kernel's value, but not its answers to older values while a newer one is on its way, nor while nothing has changed
// there: either would undo what is just being typed.
function control({ name, label, low, high, step }, change) {
  const slider = high !== null && step !== 1;
  const limits = { min: low, step, ...(high === null ? {} : { max: high }) };
  const input = node("input", { type: slider ? "range" : "number", name, ...limits });
  const shown = node("span", { "aria-hidden": "true", class: "mmnb-value" }); // a slider reads its value out itself
  const show = () => (shown.textContent = input.value);
  let known, asked; // the kernel's value as last seen, and the value last sent and not yet answered
  input.addEventListener("input", show);
  input.addEventListener("change", () => {
    asked = input.value === "" ? null : Number(input.value);
    change(name, asked);
  });
  const follow = (value) => {
    if (asked === undefined && value !== known) input.value = value ?? "";
    if (value === asked) asked = undefined;
    known = value;
    show();
  };
  const forget = () => (asked = undefined);
  const row = node("div", { class: "mmnb-setting" }, node("label", {}, label, input), ...(slider ? [shown] : []));
  return { name, follow, forget, row };
}

function render({ model, el }) {
  const ask = (action, rest = {}) => model.send({ do: action, ...rest });
  const button = (label, press) => {
    const made = node("button", { type: "button" }, label);
    made.addEventListener("click", press);
    return made;
  };

  const log = node("div", { class: "mmnb-log", role: "log", "aria-label": "Conversation", tabindex: "0" });
  const box = node("textarea", { rows: "2" });
  const send = button("Send", sendMessage);
  const stop = button("Stop", () => ask("stop"));
  const regenerate = button("Regenerate", () => ask("regenerate"));
  const newChat = button("New chat", () => {
    box.value = "";
    ask("new_chat");
  });
  const reset = button("Reset", () => {
    box.value = "";
    controls.forEach((each) => each.forget());
    ask("reset");
  });
  const kept = "New chat keeps the settings, Reset puts them back too.";
  const status = node("p", { role: "status", class: "mmnb-status" });
  const controls = model.get("controls").map((each) => control(each, (name, value) => ask("set", { name, value })));
  const note = node("p", { class: "mmnb-note" }, "Top-k, top-p and the seed count when the temperature is above 0.");
  const legend = node("legend", {}, "Settings, from the next reply on");

  function sendMessage() {
    const text = box.value;
    if (!model.get("busy")) box.value = "";
    ask("send", { text });
  }

  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    // JupyterLab takes the line break of Shift+Enter from every text field in a cell, so it is put in here
    if (event.shiftKey) box.setRangeText("\n", box.selectionStart, box.selectionEnd, "end");
    else sendMessage();
  });

  const root = node(
    "section",
    { class: "mmnb-playground", "aria-label": "Chat playground" },
    log,
    node("label", { class: "mmnb-message" }, "Message", box),
    node("div", { class: "mmnb-buttons" }, send, stop, regenerate, newChat, reset),
    status,
    node("p", { class: "mmnb-hint" }, "Enter sends, Shift+Enter starts a new line, Esc stops. ", kept),
    node("fieldset", {}, legend, ...controls.map((each) => each.row), note),
  );
  // Else arrow keys, Enter and others would be JupyterLab's commands: it asks the focused element itself.
  for (const each of root.querySelectorAll("*")) each.dataset.lmSuppressShortcuts = "true";
  root.addEventListener("keydown", (event) => event.key === "Escape" && model.get("busy") && ask("stop"));

  function turn({ role, content }) {
    return node("p", { class: `mmnb-turn mmnb-${role}` }, node("b", {}, model.get("speakers")[role]), " ", content);
  }

  let drawn; // the messages that the log shows
  const growing = turn({ role: "assistant", content: "" });
  const text = growing.lastChild;

  function draw() {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
    const messages = model.get("messages");
    const settings = model.get("settings");
    const reply = model.get("reply");
    const busy = model.get("busy");
    if (messages !== drawn) log.replaceChildren(...messages.map(turn));
    for (const each of controls) each.follow(settings[each.name]);
    drawn = messages;
    text.data = reply ?? "";
    if (reply === null) growing.remove();
    else if (growing.parentNode !== log) log.append(growing);
    log.setAttribute("aria-busy", busy);
    if (atEnd) log.scrollTop = log.scrollHeight;
    if (status.textContent !== model.get("status")) status.textContent = model.get("status");
    // Not `disabled`: that would take the focus away from a button while it is pressed.
    for (const each of [send, regenerate]) each.setAttribute("aria-disabled", busy);
    stop.setAttribute("aria-disabled", !busy);
  }

  function giveBack() {
    box.value ||= model.get("unsent");
  }

  model.on("change", draw);
  model.on("change:unsent", giveBack);
  el.append(root);
  draw();
  return () => {
    model.off("change", draw);
    model.off("change:unsent", giveBack);
  };
}

export default { render };

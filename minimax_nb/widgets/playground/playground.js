// The page of the playground. It draws the traits of view.py and sends {do: ...}; it decides nothing.
// Nodes are built once and changed in place, so that focus, scrolling and screen readers keep their place.

// The turns of the conversation. A turn that goes on only gets more tokens: those that are there stay.
function conversation(speakers, tr) {
  const log = node("div", { class: "mmnb-log", role: "log", "aria-label": tr("Conversation"), tabindex: "0" });
  let drawn = [];
  const token = ([text, sign]) => node("span", { class: "mmnb-token", ...(sign && { "data-sign": sign }) }, text);
  const goesOn = (old, turn) =>
    old?.role === turn.role && old.tokens?.every((each, at) => String(each) === String(turn.tokens[at]));

  function drawTurn(turn, at) {
    const old = drawn[at];
    if (old && old.role === turn.role && old.content === turn.content && old.tokens === turn.tokens) return;
    if (goesOn(old, turn)) return log.children[at].append(...turn.tokens.slice(old.tokens.length).map(token));
    const parts = turn.tokens ? turn.tokens.map(token) : [turn.content];
    const made = node("p", { class: `mmnb-turn mmnb-${turn.role}` }, node("b", {}, speakers[turn.role]), " ", ...parts);
    log.children[at] ? log.children[at].replaceWith(made) : log.append(made);
  }

  function draw(turns) {
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 8;
    turns.forEach(drawTurn);
    while (log.children.length > turns.length) log.lastChild.remove();
    drawn = turns;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }

  const tokens = () => [...log.querySelectorAll(".mmnb-token")];
  return { log, draw, tokens };
}

// What else a token could have been. `look` asks for the token at a place; `tokens` are those of the conversation.
function explanation(heads, tokens, tr, look) {
  const slider = node("input", { type: "range", min: "0", disabled: "" });
  const count = node("span", { "aria-hidden": "true", class: "mmnb-value" });
  const title = node("p", { class: "mmnb-candidate" });
  const rows = node("tbody");
  const head = node("tr", {}, ...heads.map((each) => node("th", { scope: "col" }, each)));
  const table = node("table", { "aria-label": tr("Candidates") }, node("thead", {}, head), rows);
  const none = tr("No token yet: send a message.");
  const hint = tr("Click a word of a reply, or move the slider. Bars: with the settings. Frames: the model alone.");
  let marked, asked; // the token that is framed; the place that was asked for and has not come back yet

  function mark(place, total) {
    slider.value = place;
    count.textContent = total ? tr("{at} of {total}", { at: place + 1, total }) : "";
    marked?.classList.remove("mmnb-chosen");
    marked = tokens()[place];
    marked?.classList.add("mmnb-chosen");
  }

  function choose(place, known, total) {
    asked = place === known ? undefined : place;
    mark(place, total);
    look(place);
  }

  function row({ name, chosen, rank, shares, figures }) {
    const bar = node("div", { class: "mmnb-bar", "aria-hidden": "true" });
    ["--drawn", "--own"].forEach((end, at) => bar.style.setProperty(end, `${100 * shares[at]}%`));
    const label = chosen ? [node("b", {}, `▶ ${tr("{name} (chosen)", { name })}`)] : [name];
    const [drawn, own] = figures;
    return node(
      "tr",
      {},
      node("td", {}, rank),
      node("th", { scope: "row" }, ...label),
      node("td", {}, node("div", { class: "mmnb-share" }, bar, drawn)),
      node("td", {}, own),
    );
  }

  function draw(candidates, place) {
    table.hidden = slider.disabled = !candidates;
    if (place === asked || !candidates) asked = undefined;
    title.textContent = candidates?.title ?? none;
    rows.replaceChildren(...(candidates?.rows.map(row) ?? []));
    slider.max = candidates ? candidates.count - 1 : 0;
    if (asked === undefined) mark(candidates?.place ?? 0, candidates?.count);
    slider.setAttribute("aria-valuetext", `${count.textContent} ${title.textContent}`);
  }

  const field = node(
    "fieldset",
    { class: "mmnb-could" },
    node("legend", {}, tr("What else it could have been")),
    node("div", { class: "mmnb-setting" }, node("label", {}, tr("Token"), slider), count),
    title,
    table,
    node("p", { class: "mmnb-note" }, hint),
  );
  return { field, slider, choose, draw };
}

function render({ model, el }) {
  const asking = asker(model);
  const { ask, waits, late } = asking;

  const tr = speaker(model);

  const { log, draw: drawTurns, tokens } = conversation(model.get("speakers"), tr);
  const could = explanation(model.get("heads"), tokens, tr, (place) => ask("look", { place }));
  const box = node("textarea", { rows: "2" });
  const send = button(tr("Send"), sendMessage);
  const stop = button(tr("Stop"), () => ask("stop"));
  const regenerate = button(tr("Regenerate"), () => ask("regenerate"));
  const newChat = button(tr("New chat"), () => {
    box.value = "";
    ask("new_chat");
  });
  const reset = button(tr("Reset"), () => {
    box.value = "";
    ask("reset");
    controls.forEach((each) => each.again(model.get("settings")[each.name]));
    system.again(model.get("system"));
  });
  const copy = button(tr("Copy as code"), copyCode);
  const kept = tr("New chat keeps the settings, Reset puts them back too.");
  const status = node("p", { role: "status", class: "mmnb-status" });
  const code = node("textarea", { readonly: "", rows: "8" });
  const codeLabel = tr("The conversation as a cell without widgets");
  const codeRow = node("label", { class: "mmnb-code", hidden: "" }, codeLabel, code);
  const systemBox = node("textarea", { rows: "1" });
  const systemLabel = tr("System prompt, from the next new chat on (empty is none)");
  const system = tied(
    systemBox,
    () => systemBox.value,
    (text) => (systemBox.value = text ?? ""),
    (text) => ask("set_system", { text }),
  );
  const controls = model.get("controls").map((each) => control(each, (name, value) => ask("set", { name, value })));
  const counts = tr("Top-k, top-p and the seed count when the temperature is above 0.");
  const note = node("p", { class: "mmnb-note" }, counts);
  const legend = node("legend", {}, tr("Settings, from the next reply on"));

  function sendMessage() {
    const text = box.value;
    if (!model.get("busy")) box.value = "";
    ask("send", { text });
  }

  async function copyCode() {
    if (!model.get("code")) return (status.textContent = tr("nothing to copy yet: send a message"));
    codeRow.hidden = false;
    code.scrollTop = 0;
    try {
      await navigator.clipboard.writeText(code.value); // absent where the page came over plain http
      status.textContent = tr("copied: paste it into a cell");
    } catch {
      code.focus();
      code.select();
      const selected = tr("not copied, this page may not: the code is selected, press Ctrl+C (on a Mac Cmd+C)");
      status.textContent = selected;
    }
  }

  log.addEventListener("click", (event) => {
    const place = tokens().indexOf(event.target);
    if (place < 0) return;
    could.slider.focus({ preventScroll: true }); // arrow keys go on from there
    could.choose(place, model.get("place"), tokens().length);
  });
  could.slider.addEventListener("input", () =>
    could.choose(could.slider.valueAsNumber, model.get("place"), tokens().length),
  );

  box.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    // JupyterLab takes the line break of Shift+Enter from every text field in a cell, so it is put in here
    if (event.shiftKey) box.setRangeText("\n", box.selectionStart, box.selectionEnd, "end");
    else sendMessage();
  });

  const chat = node(
    "div",
    { class: "mmnb-chat" },
    log,
    node("label", { class: "mmnb-message" }, tr("Message"), box),
    node("div", { class: "mmnb-buttons" }, send, stop, regenerate, newChat, reset, copy),
    late,
    status,
    node("p", { class: "mmnb-hint" }, tr("Enter sends, Shift+Enter starts a new line, Esc stops."), " ", kept),
    codeRow,
  );
  const systemRow = node("label", { class: "mmnb-message mmnb-note" }, systemLabel, systemBox);
  const settings = node("fieldset", {}, legend, systemRow, ...controls.map((each) => each.row), note);
  const root = node(
    "section",
    { class: "mmnb-widget mmnb-playground", "aria-label": tr("Chat playground") },
    node("div", { class: "mmnb-columns" }, chat, could.field),
    settings,
  );
  // A turn of the model's is its tokens; the one being written is the last.
  function turns() {
    const replies = model.get("tokens");
    let next = 0;
    const finished = model
      .get("messages")
      .map((each) => (each.role === "assistant" ? { ...each, tokens: replies[next++] } : each));
    const growing = { role: "assistant", tokens: model.get("growing") };
    return model.get("reply") === null ? finished : [...finished, growing];
  }

  let known; // the kernel's last status: what the page says itself stays until there is a new one

  function draw() {
    const values = model.get("settings");
    const busy = model.get("busy");
    drawTurns(turns());
    could.draw(model.get("candidates"), model.get("place"));
    for (const each of controls) if (!waits("set", each.name)) each.follow(values[each.name]);
    if (!waits("set_system")) system.follow(model.get("system"));
    log.setAttribute("aria-busy", busy);
    if (known !== model.get("status")) status.textContent = known = model.get("status");
    if (code.value !== model.get("code")) code.value = model.get("code");
    codeRow.hidden ||= !model.get("code");
    for (const each of [send, regenerate]) enable(each, !busy);
    enable(stop, busy);
  }

  function giveBack() {
    box.value ||= model.get("unsent");
  }

  model.on("change:unsent", giveBack);
  const away = show({ model, el }, root, asking, draw);
  return () => {
    model.off("change:unsent", giveBack);
    away();
  };
}

export default { render };

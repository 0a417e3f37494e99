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

// One pair: every token of the target, and where it looked in the source.
const T = data.target.length, S = data.source.length;
const heads = data.heads.map(({ weights }) => decode(weights));
const state = { head: 0, side: "target", index: 0, held: false };
const weight = (t, s) => heads[state.head][t * S + s];

// Tokens: always text, never markup.
const tokens = { target: [], source: [] }, cells = [], rows = [], columns = [];
for (const side of ["target", "source"]) {
  data[side].forEach((label, index) => {
    const button = make("button", { type: "button", className: "token", dir: "auto", textContent: label });
    const look = () => { if (!state.held) show(side, index); };
    button.addEventListener("mouseenter", look);
    button.addEventListener("focus", look);
    button.addEventListener("click", () => {
      state.held = !(state.held && state.side === side && state.index === index);
      show(side, index);
    });
    tokens[side].push(button);
    $(side).append(button);
  });
}
// What is marked is the label, not the cell around it. Chinese stands upright, one character below the other, without
// the vertical mode, for which not every font has the metrics.
const heading = (label, scope, marked) => {
  marked.push(make("span", { dir: "auto", textContent: label }));
  const className = /^\p{Script=Han}+$/u.test(label) ? "stacked" : [...label].length > 1 ? "long" : "";
  return make("th", { scope, className }, [marked.at(-1)]);
};
const top = data.source.map((label) => heading(label, "col", columns));
const body = data.target.map((label, t) => {
  cells.push(data.source.map((_, s) => {
    const cell = make("td");
    cell.addEventListener("mouseenter", () => { if (!state.held) show("target", t); tell(t, s); });
    return cell;
  }));
  return make("tr", {}, [heading(label, "row", rows), ...cells[t]]);
});
const head = make("thead", {}, [make("tr", {}, [make("td", { style: "background: none" }), ...top])]);
$("alignment").append(make("table", {}, [head, make("tbody", {}, body)]));

function tell(t, s) {
  $("weight").textContent = `“${data.target[t]}” looked at “${data.source[s]}”: ${weight(t, s).toFixed(3)}`;
}
function shade(button, value) {
  button.style.backgroundColor = value > 0.01 ? `rgba(var(--looks), ${(0.85 * value).toFixed(3)})` : "";
  button.style.color = value > 0.6 ? "var(--card)" : "";
}
function show(side, index) {
  Object.assign(state, { side, index });
  const isTarget = side === "target";
  const others = isTarget ? data.source.map((_, s) => weight(index, s)) : data.target.map((_, t) => weight(t, index));
  const best = others.indexOf(Math.max(...others));
  tokens[isTarget ? "source" : "target"].forEach((button, i) => shade(button, others[i]));
  tokens[side].forEach((button) => shade(button, 0));
  for (const name of ["target", "source"]) {
    tokens[name].forEach((button, i) => {
      const isIt = name === side && i === index;
      button.classList.toggle("now", isIt && !state.held);
      button.classList.toggle("held", isIt && state.held);
    });
  }
  rows.forEach((element, t) => element.classList.toggle("on", isTarget && t === index));
  columns.forEach((element, s) => element.classList.toggle("on", !isTarget && s === index));
  if (isTarget) tell(index, best); else tell(best, index);
}
function redraw() {
  cells.forEach((row, t) => row.forEach((cell, s) => {
    const colour = `rgba(var(--looks), ${weight(t, s).toFixed(3)})`;
    cell.style.backgroundImage = `linear-gradient(${colour}, ${colour})`;
    cell.title = weight(t, s).toFixed(3);
  }));
  show(state.side, state.index);
}
data.heads.forEach(({ name }, value) => $("head").append(make("option", { value, textContent: name })));
$("head").addEventListener("change", () => { state.head = Number($("head").value); redraw(); });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "t" && event.target.tagName !== "SELECT") switchTheme();
  if (event.key === "Escape") { state.held = false; show(state.side, state.index); }
});
redraw();

// Tokens: always text, never markup.
function fill(element, label) {
  element.replaceChildren(...label.split(/([·↵⇥⏎]+)/u).filter(Boolean).map((part) =>
    /^[·↵⇥⏎]/u.test(part) ? make("span", { className: "space", textContent: part }) : part));
  return element;
}
const quoted = (index) => `“${data.tokens[index]}”`;

// The grid of heads.
const thumbs = [];
const BADGES = { sink: "S", previous_token: "P", duplicate_token: "D", induction: "I" };
const WORDS = {
  entropy: ["entropy", "how evenly it looks around: 1 the same everywhere, 0 all on one token"],
  sink: ["sink", "weight on the first token, where heads look that have nothing to say"],
  previous_token: ["previous token", "on random tokens: weight on the token before"],
  duplicate_token: ["duplicate token", "on random tokens, repeated: weight on the same token before"],
  induction: ["induction", "on random tokens, repeated: weight on what followed the same token before"],
};
const scoresOf = (layer, head) => Object.fromEntries(data.scoreNames.map((name, i) => [name, data.scores[layer * H + head][i]]));

function thumb(layer, head, label) {
  const canvas = make("canvas", { width: T, height: T });
  const button = make("button", { type: "button", className: "thumb", title: label }, [canvas]);
  button.setAttribute("aria-label", label);
  button.addEventListener("click", () => choose(layer, head));
  if (layer < L) {
    const scores = scoresOf(layer, head);
    const best = Object.keys(BADGES).reduce((a, b) => ((scores[b] ?? 0) > (scores[a] ?? 0) ? b : a));
    if (scores[best] > 0.5) button.append(make("i", { textContent: BADGES[best] }));
  }
  thumbs.push({ layer, head, button, canvas });
  return button;
}
function buildGrid() {
  const grid = $("grid");
  grid.style.gridTemplateColumns = `auto repeat(${H}, minmax(0, 1fr))`;
  grid.append(make("span"));
  for (let head = 0; head < H; head++) grid.append(make("span", { className: "number", textContent: head }));
  for (let layer = 0; layer < L; layer++) {
    grid.append(make("span", { className: "layer", textContent: layer }));
    for (let head = 0; head < H; head++) grid.append(thumb(layer, head, `layer ${layer}, head ${head}`));
  }
  const button = thumb(ROLLOUT, 0, "attention rollout");
  button.style.width = `min(96px, calc((100% - ${4 * (H - 1)}px) / ${H}))`;
  button.style.minWidth = "28px";
  grid.append(make("span", { className: "layer", textContent: "all" }));
  grid.append(make("div", { className: "wide" }, [button, "rollout: all layers, one after the other"]));
  if (grid.querySelector(".thumb i")) {
    const words = Object.entries(BADGES).map(([name, letter]) => [make("b", { textContent: letter }), ` ${WORDS[name][0]}  `]);
    $("badges").append(...words.flat(), "(score above 0.5)");
  }
}

// The text.
const tokens = [];
function buildText() {
  data.tokens.forEach((label, index) => {
    const button = fill(make("button", { type: "button", className: "token", dir: "auto", tabIndex: -1 }), label);
    button.setAttribute("aria-label", `token ${index}: ${label}`);
    button.addEventListener("mouseenter", () => { if (!state.held) look(index); });
    button.addEventListener("click", () => hold(index));
    tokens.push(button);
    $("text").append(button);
    if (label.includes("↵")) $("text").append(make("br"));
  });
}

function choose(layer, head) {
  Object.assign(state, { layer, head: layer === ROLLOUT ? 0 : head });
  show();
}
function look(index) { state.token = index; show(); }
function hold(index) {
  state.held = !(state.held && state.token === index);
  look(index);
}

function list(element, entries) {
  const best = entries.filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, 8);
  element.replaceChildren(...best.map(([index, value]) => {
    const name = make("span", {}, [fill(make("bdi"), data.tokens[index]), make("sub", { textContent: index })]);
    const item = make("li", {}, [name, make("b", { textContent: value.toFixed(4) })]);
    item.style.setProperty("--share", `${100 * value}%`);
    return item;
  }));
}

function showScores() {
  const { layer, head } = state;
  if (layer === ROLLOUT) {
    $("chosen").replaceChildren("Attention rollout", make("small", { textContent: data.rolloutNote }));
    $("scores").replaceChildren();
    return;
  }
  $("chosen").replaceChildren(`Layer ${layer}, head ${head}`);
  const scores = scoresOf(layer, head);
  $("scores").replaceChildren(...data.scoreNames.flatMap((name) => {
    const value = scores[name], fillBar = make("i");
    fillBar.style.width = `${100 * (value ?? 0)}%`;
    return [
      make("dt", { textContent: WORDS[name][0], title: WORDS[name][1] }),
      make("div", { className: "bar", title: WORDS[name][1] }, [fillBar]),
      make("dd", { textContent: value === null ? "–" : value.toFixed(3) }),
    ];
  }));
}

const shown = (value) => (value < 0.005 ? "<0.01" : value.toFixed(2));
function showLens() {
  const token = state.token;
  const wanted = data.originals || data.tokens;
  const truth = !data.labels && token + data.shift < T ? wanted[token + data.shift] : null;
  $("lens-title").textContent = data.labels ? `Which label each layer would give, read at ${quoted(token)}` : data.shift ? `What each layer would say after ${quoted(token)}`
    + (truth === null ? "" : `; then came ${quoted(token + 1)}`) : `What each layer would say in place of ${quoted(token)}`
    + (truth === data.tokens[token] ? "" : `; “${truth}” was hidden`);
  const head = make("tr", {}, ["read after", truth === null ? "" : "its rank", "guesses", "", ""].map((textContent) => make("th", { textContent })));
  const rows = data.lens.map((layer) => {
    const cells = layer.guesses[token].map((label, i) => {
      const name = fill(make("bdi", { className: label === truth ? "true" : "" }), label);
      const chance = make("small", { textContent: shown(layer.chances[token][i]) });
      return make("td", { title: label }, [make("div", {}, [name, chance])]);
    });
    while (cells.length < 3) cells.push(make("td"));
    const rank = token < layer.ranks.length ? layer.ranks[token].toLocaleString("en") : "";
    return make("tr", {}, [make("td", { textContent: layer.name }), make("td", { className: "rank", textContent: rank }), ...cells]);
  });
  $("lens").replaceChildren(head, ...rows);
}

function show() {
  const { layer, head, token } = state;
  for (const t of thumbs) t.button.setAttribute("aria-pressed", String(t.layer === layer && t.head === head));
  const looks = data.tokens.map((_, index) => [index, visible(token, index) ? now(token, index) : 0]);
  const seen = data.tokens.map((_, index) => [index, visible(index, token) ? now(index, token) : 0]);
  // Shades in the text are relative to the strongest, or a long text would stay blank; but even weights stay pale.
  const shade = (entries, index) => {
    const most = Math.max(0.15, ...entries.filter(([i]) => !hidden(i)).map(([, value]) => value));
    return hidden(index) ? 0 : entries[index][1] / most;
  };
  tokens.forEach((button, index) => {
    const out = shade(looks, index), back = shade(seen, index);
    button.style.backgroundColor = out > 0.01 ? `rgba(var(--looks), ${(0.85 * out).toFixed(3)})` : "";
    button.style.borderBottomColor = back > 0.01 ? `rgba(var(--seen), ${back.toFixed(3)})` : "";
    button.style.color = out > 0.6 ? "var(--card)" : "";
    button.classList.toggle("now", index === token && !state.held);
    button.classList.toggle("held", index === token && state.held);
  });
  $("looks-title").textContent = `${quoted(token)} looks at`;
  $("seen-title").textContent = `Who looks at ${quoted(token)}`;
  list($("looks"), looks);
  list($("seen"), seen);
  showScores();
  showLens();
  drawMap();
}

function redraw() {
  for (const { layer, head, canvas } of thumbs) canvas.getContext("2d").putImageData(picture(layer, head), 0, 0);
  $("ramp").querySelector("i").style.background = `linear-gradient(90deg, ${RAMPS[theme()].map((c) => `rgb(${c})`).join(", ")})`;
  $("low").textContent = $("log").checked ? "0.0001" : "0";
  const blank = [data.causal ? "masked: it comes later" : "", $("first").checked ? "omitted" : ""].filter(Boolean);
  $("blank").querySelector("em").textContent = blank.join(", or ");
  $("blank").hidden = !blank.length;
  show();
}
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const clamp = (value, most) => Math.min(most, Math.max(0, value));
  if (step && (event.shiftKey || document.activeElement?.classList.contains("token")) && step[1]) {
    look(clamp(state.token + step[1], T - 1));
    if (document.activeElement?.classList.contains("token")) tokens[state.token].focus();
  } else if (step) {
    choose(clamp(state.layer + step[0], ROLLOUT), state.layer === ROLLOUT && step[1] ? 0 : clamp(state.head + step[1], H - 1));
  } else if (event.key === "Enter" && !["BUTTON", "INPUT"].includes(document.activeElement?.tagName)) {
    hold(state.token);
  } else if (event.key === "Escape") {
    state.held = false;
    show();
  } else if (event.key === "t") {
    switchTheme();
  } else {
    return;
  }
  event.preventDefault();
}

// Begin with the head that has made up its mind most.
const entropies = data.scores.map((row) => row[data.scoreNames.indexOf("entropy")] ?? 1);
const sharpest = entropies.indexOf(Math.min(...entropies));
Object.assign(state, { layer: Math.floor(sharpest / H), head: sharpest % H });

$("model").textContent = `${data.model}, tokens: ${T}`;
const precision = `weights are shown to four decimal places; this file keeps them to within ${(0.5 / data.steps).toFixed(6)}`;
$("notes").append(...[...data.notes, precision].map((textContent) => make("li", { textContent })));
buildGrid();
buildText();
tokens[state.token].tabIndex = 0;
$("text").addEventListener("focusin", (event) => {
  const index = tokens.indexOf(event.target);
  if (index >= 0 && !state.held) look(index);
});
$("map").addEventListener("mousemove", (event) => {
  const at = cellAt(event);
  if (at && !state.held && at.query !== state.token) look(at.query);
  drawMap(at);
  tell(at);
});
$("map").addEventListener("mouseleave", () => { drawMap(); tell(null); });
$("map").addEventListener("click", (event) => { const at = cellAt(event); if (at) hold(at.query); });
$("log").addEventListener("change", redraw);
$("first").addEventListener("change", redraw);
document.addEventListener("keydown", onKey);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
window.addEventListener("resize", () => drawMap());
redraw();

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const make = (tag, properties = {}, children = []) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const T = data.tokens.length, L = data.layers, H = data.heads;
  const perMap = data.causal ? (T * (T + 1)) / 2 : T * T;
  const state = { layer: 0, head: 0, token: Math.floor((T - 1) * 0.6), held: false };
  const ROLLOUT = L; // one row below the last layer

  const decode = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true) / data.steps);
  };
  const weights = decode(data.weights), rollout = decode(data.rollout);
  const visible = (query, key) => !data.causal || key <= query;
  const weight = (layer, head, query, key) => {
    const place = data.causal ? (query * (query + 1)) / 2 + key : query * T + key;
    return layer === ROLLOUT ? rollout[place] : weights[(layer * H + head) * perMap + place];
  };
  const now = (query, key) => weight(state.layer, state.head, query, key);

  // Colours: a fixed scale from 0 to 1. Light begins near paper, dark near night.
  const RAMPS = {
    light: [[237, 241, 248], [183, 202, 238], [110, 148, 220], [44, 92, 178], [10, 36, 92]],
    dark: [[32, 41, 56], [38, 70, 128], [66, 118, 206], [136, 180, 248], [240, 246, 255]],
  };
  const theme = () => document.documentElement.dataset.theme
    || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const scaled = (value) => ($("log").checked ? Math.max(0, 1 + Math.log10(Math.max(value, 1e-4)) / 4) : value);
  const colour = (value) => {
    const ramp = RAMPS[theme()], place = Math.min(1, Math.max(0, scaled(value))) * (ramp.length - 1);
    const low = Math.min(ramp.length - 2, Math.floor(place)), part = place - low;
    return ramp[low].map((from, i) => Math.round(from + part * (ramp[low + 1][i] - from)));
  };
  const hidden = (key) => key === 0 && T > 1 && $("first").checked;

  function picture(layer, head) {
    const image = new ImageData(T, T);
    for (let query = 0; query < T; query++) {
      for (let key = 0; key < T; key++) {
        if (!visible(query, key) || hidden(key)) continue;
        image.data.set([...colour(weight(layer, head, query, key)), 255], 4 * (query * T + key));
      }
    }
    return image;
  }

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
    sink: ["first token", "weight on the first token, where heads look that have nothing to say"],
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
    grid.append(make("span", { className: "layer", textContent: "∏" }));
    grid.append(make("div", { className: "wide" }, [button, "rollout through all layers"]));
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

  function showLens() {
    const token = state.token;
    const truth = token + 1 < T ? data.tokens[token + 1] : null;
    $("lens-title").textContent = `What each layer would say after ${quoted(token)}`
      + (truth === null ? "" : `; then came ${quoted(token + 1)}`);
    const head = make("tr", {}, ["read after", "rank of what came", "guesses", "", ""].map((textContent) => make("th", { textContent })));
    const rows = data.lens.map((layer) => {
      const cells = layer.guesses[token].map((label, i) => {
        const name = fill(make("bdi", { className: label === truth ? "true" : "" }), label);
        return make("td", {}, [name, make("small", { textContent: layer.chances[token][i].toFixed(2) })]);
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
    // Shades in the text are relative to the strongest, or a long text would stay blank.
    const shade = (entries, index) => {
      const most = Math.max(1e-9, ...entries.filter(([i]) => !hidden(i)).map(([, value]) => value));
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

  // The map of the chosen head, with labels as far as there is room.
  let frame = null;
  function drawMap(at) {
    const canvas = $("map"), width = canvas.clientWidth || 520, ratio = window.devicePixelRatio || 1;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    const family = style.getPropertyValue("--mono");
    pen.font = `12px ${family}`;
    const longest = Math.max(...data.tokens.map((label) => pen.measureText(label).width));
    const margin = Math.ceil(Math.min(longest + 10, 110, width * 0.25)), cell = (width - margin) / T, size = cell * T;
    canvas.style.height = `${margin + size}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((margin + size) * ratio);
    pen.scale(ratio, ratio);
    const small = make("canvas", { width: T, height: T });
    small.getContext("2d").putImageData(picture(state.layer, state.head), 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, margin, margin, size, size);
    const ink = style.getPropertyValue("--ink"), quiet = style.getPropertyValue("--quiet");
    const letters = Math.max(8, Math.min(12, cell)), step = Math.ceil(letters / cell);
    pen.font = `${letters}px ${family}`;
    pen.textBaseline = "middle";
    const fit = (label) => {
      let text = label;
      while (text.length > 1 && pen.measureText(text).width > margin - 8) text = `${[...text].slice(0, -2).join("")}…`;
      return text;
    };
    for (let index = 0; index < T; index++) {
      if (index % step && index !== state.token) continue;
      if (step > 1 && index !== state.token && Math.abs(index - state.token) < step) continue;
      const middle = margin + (index + 0.5) * cell;
      pen.fillStyle = index === state.token ? ink : quiet;
      pen.textAlign = "right";
      pen.fillText(fit(data.tokens[index]), margin - 5, middle);
      pen.save();
      pen.translate(middle, margin - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(fit(data.tokens[index]), 0, 0);
      pen.restore();
    }
    const last = data.causal ? state.token + 1 : T, first = data.causal ? state.token : 0;
    pen.lineWidth = 1.5;
    pen.strokeStyle = `rgb(${style.getPropertyValue("--looks")})`;
    pen.strokeRect(margin, margin + state.token * cell, last * cell, cell);
    pen.strokeStyle = `rgb(${style.getPropertyValue("--seen")})`;
    pen.strokeRect(margin + state.token * cell, margin + first * cell, cell, size - first * cell);
    if (at) {
      pen.strokeStyle = ink;
      pen.strokeRect(margin + at.key * cell, margin + at.query * cell, cell, cell);
    }
    frame = { margin, cell };
  }
  function cellAt(event) {
    if (!frame) return null;
    const box = $("map").getBoundingClientRect();
    const key = Math.floor((event.clientX - box.left - frame.margin) / frame.cell);
    const query = Math.floor((event.clientY - box.top - frame.margin) / frame.cell);
    return query >= 0 && query < T && key >= 0 && key < T ? { query, key } : null;
  }
  function tell(at) {
    if (!at) { $("cell").textContent = " "; return; }
    const value = visible(at.query, at.key) ? now(at.query, at.key).toFixed(4) : "masked: it comes later";
    $("cell").textContent = `${quoted(at.query)} (${at.query}) looks at ${quoted(at.key)} (${at.key}): ${value}`;
  }

  function redraw() {
    for (const { layer, head, canvas } of thumbs) canvas.getContext("2d").putImageData(picture(layer, head), 0, 0);
    $("ramp").querySelector("i").style.background = `linear-gradient(90deg, ${RAMPS[theme()].map((c) => `rgb(${c})`).join(", ")})`;
    $("low").textContent = $("log").checked ? "0.0001" : "0";
    $("ramp").querySelector("em").textContent = data.causal ? "blank: masked" : "";
    show();
  }
  function switchTheme() {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    redraw();
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

  $("title").textContent = data.title;
  $("model").textContent = `${data.model}, ${T} tokens`;
  const precision = `weights are shown to four places and held in 16 bits (to ${(0.5 / data.steps).toFixed(6)})`;
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
  $("theme").addEventListener("click", switchTheme);
  document.addEventListener("keydown", onKey);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  window.addEventListener("resize", () => drawMap());
  redraw();
})();

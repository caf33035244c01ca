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
  hatch(pen, margin, size, style.getPropertyValue("--mask"));
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
// What stands for masked cells, so that they are not taken for zeros: slanted lines, under the map.
function hatch(pen, margin, size, colour) {
  pen.save();
  pen.beginPath();
  pen.rect(margin, margin, size, size);
  pen.clip();
  pen.beginPath();
  for (let x = margin - size; x < margin + size; x += 6) {
    pen.moveTo(x, margin + size);
    pen.lineTo(x + size, margin);
  }
  pen.lineWidth = 1;
  pen.strokeStyle = colour;
  pen.stroke();
  pen.restore();
}

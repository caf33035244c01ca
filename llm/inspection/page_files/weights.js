// The weights, and their colours.
const T = data.tokens.length, L = data.layers, H = data.heads;
const perMap = data.causal ? (T * (T + 1)) / 2 : T * T;
const state = { layer: 0, head: 0, token: Math.floor((T - 1) * 0.6), held: false };
const ROLLOUT = L; // one row below the last layer

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

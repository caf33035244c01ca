// What every page begins with. Its scripts are put one after the other into one function; each page has a `redraw`.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (tag, properties = {}, children = []) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
const decode = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true) / data.steps);
};
const theme = () => document.documentElement.dataset.theme
  || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
function switchTheme() {
  document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
  redraw();
}
$("title").textContent = data.title;
$("theme").addEventListener("click", switchTheme);

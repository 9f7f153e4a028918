"use strict";
// The gallery and the viewer. Everything is in this file: figures of all cases in #data, the picture of case n in
// #picture-n, which is parsed when the case comes into sight and let go when it leaves.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const columns = data.columns.map(([key]) => key);
const words = Object.fromEntries(data.columns);
const cases = data.cases.map(([name, image, state, reason, note, size, labels, values], index) => ({
  index, name, image, state, reason, note, size, labels, value: Object.fromEntries(columns.map((key, n) => [key, values[n]])),
}));
const main = columns.includes("jaccard") ? "jaccard" : "confidence"; // what a card says where it is not sorted by another
const PRINTED = 24;
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const shown = (value) => (value === null || value === undefined ? "\u2013" : String(Number(value.toFixed(4))));
const short = (value) => (value === null || value === undefined ? "" : value.toFixed(3));
const brief = (key) => ({ confidence: "conf.", lesion_area_fraction: "area" })[key] || inWords(key);
const inWords = (key) => words[key] || key.replaceAll("_", " ");

// Pictures

function pictureOf(each) {
  const block = byId(`picture-${each.index}`);
  return block && JSON.parse(block.textContent); // none while the file is still being read
}

function outlines(picture) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  svg.setAttribute("aria-hidden", "true");
  for (const [path, kind] of [[picture.truth, "true"], [picture.prediction, "predicted"]]) {
    for (const layer of path ? ["casing", "line"] : []) {
      const line = document.createElementNS(SVG, "path");
      line.setAttribute("d", path);
      line.setAttribute("class", `outline ${kind}${layer === "casing" ? " casing" : ""}`);
      svg.append(line);
    }
  }
  return svg;
}

function describe(each) {
  const parts = [each.image, each.state, main in each.value && each.value[main] !== null ? `${inWords(main)} ${short(each.value[main])}` : ""];
  return [...parts, each.labels && each.labels.length ? `labelled ${each.labels.map(inWords).join(", ")}` : ""].filter(Boolean).join(", ");
}

function fill(view, each, alt) {
  const picture = pictureOf(each);
  if (!picture) return null;
  const image = picture.webp ? [make("img", { src: `data:image/webp;base64,${picture.webp}`, alt })] : [];
  view.replaceChildren(...image, outlines(picture));
  return picture;
}

// Cards: made once, sorted and hidden by taking them out of the list and putting them back

const cards = cases.map((each) => {
  const view = make("span", { class: "view" });
  const value = make("span", { class: "value" });
  const [labels, second] = [make("span"), make("span")];
  const known = each.value[main] === null || each.value[main] === undefined ? [] : [make("span", { class: "unseen" }, inWords(main))];
  const button = make("button", { type: "button", class: "card", tabindex: "-1" },
    view,
    make("span", { class: "row" }, make("span", { class: "name", title: each.image }, each.image), ...known, value),
    make("span", { class: "row more" }, labels, second));
  const item = make("li", {}, button);
  button.addEventListener("click", () => open(each));
  button.addEventListener("focus", () => setStop(each));
  return { item, button, view, value, labels, second };
});

const ofItem = new Map(cards.map((card, index) => [card.item, cases[index]]));

function show(each) {
  const { view } = cards[each.index];
  if (view.firstChild) return;
  const picture = fill(view, each, "");
  const why = [each.reason, ...(picture ? picture.problems : [])].filter(Boolean).join("; ");
  if (why && (each.state !== "segmented" || (picture && !picture.webp))) view.append(make("span", { class: "why" }, why));
}

const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const each = ofItem.get(entry.target);
    if (entry.isIntersecting) show(each);
    else if (!printing) cards[each.index].view.replaceChildren();
  }
}, { rootMargin: "600px 0px" });
let printing = false;

// Sort and filter

const gallery = byId("gallery");
const tools = byId("tools");
let order = cases; // the cases that are seen, in their order

const collator = new Intl.Collator("en", { numeric: true });
function compare(key, descending) {
  const turn = descending ? -1 : 1;
  if (key === "") return (a, b) => turn * (a.index - b.index);
  if (key === "name") return (a, b) => turn * collator.compare(a.name, b.name);
  return (a, b) => {
    const [x, y] = [a.value[key], b.value[key]];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index; // unknown is last, both ways
    return turn * (x - y) || a.index - b.index;
  };
}

function wanted() {
  const text = byId("text").value.trim().toLowerCase();
  const state = byId("state").value;
  const below = byId("below") && byId("below").value !== "" ? Number(byId("below").value) : null;
  const [kind, name] = byId("class") && byId("class").value ? byId("class").value.split(/:(.*)/s) : [];
  return (each) =>
    (!text || each.image.toLowerCase().includes(text)) &&
    (!state || each.state === state) &&
    (below === null || (each.value.jaccard !== null && each.value.jaccard < below)) &&
    (kind !== "label" || (each.labels || []).includes(name)) &&
    (kind !== "score" || each.value[name] > data.positive_above);
}

const likeliest = (each) => data.classes.reduce((best, name) => (each.value[name] > (each.value[best] ?? -1) ? name : best), "");

function arrange() {
  const key = byId("sort").value;
  order = cases.filter(wanted()).sort(compare(key, byId("descending").checked));
  const asked = key && key !== "name" && key !== main ? key : main === "confidence" ? "" : "confidence";
  for (const each of order) {
    const card = cards[each.index];
    card.value.textContent = short(each.value[main]) || (each.state === "failed" ? "failed" : "");
    card.labels.textContent = (each.labels || []).map(inWords).join(", ") || "\u00a0";
    const second = asked || likeliest(each);
    card.second.textContent = second !== main && short(each.value[second]) ? `${brief(second)} ${each.value[second].toFixed(2)}` : "";
  }
  gallery.replaceChildren(...order.map((each) => cards[each.index].item));
  setStop(order[0]);
  byId("found").textContent = order.length === cases.length ? `${cases.length} cases` : `${order.length} of ${cases.length} cases`;
}

let soon = 0;
tools.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(arrange, 60); });
tools.addEventListener("reset", () => setTimeout(arrange));
tools.addEventListener("submit", (event) => event.preventDefault());

// Keyboard in the gallery: one tab stop, arrows within

let stop = null;
function setStop(each) {
  if (stop) cards[stop.index].button.tabIndex = -1;
  stop = each || null;
  if (stop) cards[stop.index].button.tabIndex = 0;
}

function focusCard(position) {
  if (!order.length) return;
  const each = order[Math.max(0, Math.min(order.length - 1, position))];
  const { button, item } = cards[each.index];
  item.scrollIntoView({ block: "nearest" });
  button.focus();
}

const perRow = () => getComputedStyle(gallery).gridTemplateColumns.split(" ").length;
function moveInGallery(event) {
  const inside = gallery.contains(document.activeElement);
  const at = order.indexOf(stop);
  const steps = { j: inside ? 1 : 0, k: inside ? -1 : 0 };
  const arrows = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow(), ArrowUp: -perRow(), Home: -at, End: order.length };
  if (event.key in arrows && inside) focusCard(at + arrows[event.key]);
  else if (event.key.toLowerCase() in steps && byId("keys").checked) focusCard(at + steps[event.key.toLowerCase()]);
  else return false;
  return true;
}

// Viewer

const viewer = byId("viewer");
const well = byId("well");
const stage = byId("stage");
let current = null;
const zoom = { scale: 1, x: 0, y: 0 };

function open(each) {
  current = each;
  const position = order.indexOf(each);
  byId("viewer-title").textContent = each.image;
  byId("position").textContent = `${position + 1} of ${order.length}`;
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position >= order.length - 1;
  const picture = fill(stage, each, `Photograph of ${describe(each)}`);
  const said = [["state", each.state], ["why", each.reason], ["labels", each.labels && (each.labels.map(inWords).join(", ") || "none of the classes")],
    ["size", each.size], ["note", each.note], ["not shown", picture && picture.problems.filter((problem) => problem !== each.reason).join("; ")]];
  byId("said").replaceChildren(make("dl", {}, ...said.filter(([, value]) => value).flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)])));
  byId("values").replaceChildren(...columns.filter((key) => each.value[key] !== null).map((key) =>
    make("tr", {}, make("th", { scope: "row" }, inWords(key)), make("td", { class: "number" }, shown(each.value[key])))));
  fit();
  if (!viewer.open) viewer.showModal();
  history.replaceState(null, "", `#case=${encodeURIComponent(each.name)}`);
}

function step(by) {
  const next = order[order.indexOf(current) + by];
  if (next) open(next);
}

function place() {
  stage.style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
}
function fit() {
  Object.assign(zoom, { scale: 1, x: 0, y: 0 });
  place();
}
function zoomBy(factor, x = well.clientWidth / 2, y = well.clientHeight / 2) {
  const scale = Math.max(1, Math.min(16, zoom.scale * factor));
  zoom.x = x - ((x - zoom.x) * scale) / zoom.scale; // what is under the pointer stays there
  zoom.y = y - ((y - zoom.y) * scale) / zoom.scale;
  zoom.scale = scale;
  if (scale === 1) fit();
  else place();
}
function pan(x, y) {
  if (zoom.scale === 1) return;
  zoom.x += x;
  zoom.y += y;
  place();
}

well.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = well.getBoundingClientRect();
  zoomBy(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
well.addEventListener("pointermove", (event) => { if (event.buttons === 1) pan(event.movementX, event.movementY); });
well.addEventListener("pointerdown", (event) => well.setPointerCapture(event.pointerId));
well.addEventListener("dragstart", (event) => event.preventDefault());
well.addEventListener("dblclick", () => (zoom.scale === 1 ? zoomBy(3) : fit()));

for (const [box, name] of [["show-prediction", "no-prediction"], ["show-truth", "no-truth"]]) {
  if (byId(box)) byId(box).addEventListener("change", (event) => stage.classList.toggle(name, !event.target.checked));
}
const actions = { previous: () => step(-1), next: () => step(1), in: () => zoomBy(1.5), out: () => zoomBy(1 / 1.5), fit, close: () => viewer.close() };
for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("close", () => {
  history.replaceState(null, "", "#cases");
  focusCard(order.indexOf(current));
});

function keyInViewer(event) {
  const key = event.key.toLowerCase();
  const far = { arrowleft: [60, 0], arrowright: [-60, 0], arrowup: [0, 60], arrowdown: [0, -60] };
  const steps = { arrowleft: -1, arrowup: -1, arrowright: 1, arrowdown: 1 };
  const single = { j: () => step(1), k: () => step(-1), p: () => byId("show-prediction").click(), t: () => byId("show-truth") && byId("show-truth").click(),
    "+": actions.in, "=": actions.in, "-": actions.out, 0: fit };
  if (event.shiftKey && key in far) pan(...far[key]);
  else if (key in steps) step(steps[key]);
  else if (key in single && byId("keys").checked) single[key]();
  else return false;
  return true;
}

// All keys

const help = byId("help");
byId("show-help").addEventListener("click", () => help.showModal());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  const helping = event.key === "?" && byId("keys").checked;
  const finding = event.key === "/" && byId("keys").checked && !viewer.open;
  if (helping) help.showModal();
  else if (finding) byId("text").focus();
  else if (!(viewer.open ? keyInViewer(event) : moveInGallery(event))) return;
  event.preventDefault();
});

// Print: the first cases, with their pictures

window.addEventListener("beforeprint", () => {
  printing = true;
  order.forEach((each, position) => cards[each.index].item.classList.toggle("printed", position < PRINTED));
  order.slice(0, PRINTED).forEach(show);
  const most = Math.min(PRINTED, order.length);
  byId("printed").textContent = most < cases.length ? `The first ${most} of ${cases.length} cases are printed.` : "";
});
window.addEventListener("afterprint", () => { printing = false; });

arrange();
document.addEventListener("DOMContentLoaded", () => {
  cards.forEach((card) => sight.observe(card.item));
  const asked = decodeURIComponent((location.hash.match(/^#case=(.*)/) || ["", ""])[1]);
  const found = asked && cases.find((each) => each.name === asked);
  if (found) open(found);
});

"use strict";
// The gallery and the viewer. All data are in this file: #data describes the cases, and #picture-N holds the picture of
// case N. A picture is parsed when its card scrolls into view, and dropped when the card leaves.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const columns = data.columns.map(([key]) => key);
const titles = Object.fromEntries(data.columns);
const cases = data.cases.map(([name, image, state, problem, note, size, labels, values], index) => ({
  index, name, image, state, problem, note, size, labels,
  values: Object.fromEntries(columns.map((key, column) => [key, values[column]])),
}));
const mainColumn = columns.includes("jaccard") ? "jaccard" : "confidence"; // the number in bold on every card
const MAX_PRINTED = 24;
const SVG = "http://www.w3.org/2000/svg";
const SHORT_TITLES = { confidence: "conf.", lesion_area_fraction: "area" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
const isKnown = (value) => value !== null && value !== undefined;
const formatExactly = (value) => (isKnown(value) ? String(Number(value.toFixed(4))) : "\u2013");
const formatShortly = (value) => (isKnown(value) ? value.toFixed(Math.abs(value) < 100 ? 3 : 0) : "");
const title = (key) => titles[key] || key.replaceAll("_", " ");
const shortTitle = (key) => SHORT_TITLES[key] || title(key);

// Pictures

function pictureOf(item) {
  const block = byId(`picture-${item.index}`);
  return block && JSON.parse(block.textContent); // null while the browser is still reading the file
}

function drawOutlines(picture) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);
  svg.setAttribute("aria-hidden", "true");
  for (const [path, kind] of [[picture.truth, "truth"], [picture.prediction, "predicted"]]) {
    for (const layer of path ? ["casing", "line"] : []) {
      const outline = document.createElementNS(SVG, "path");
      outline.setAttribute("d", path);
      outline.setAttribute("class", `outline ${kind}${layer === "casing" ? " casing" : ""}`);
      svg.append(outline);
    }
  }
  return svg;
}

function describe(item) {
  const value = item.values[mainColumn];
  const labels = (item.labels || []).map(title).join(", ");
  const parts = [item.image, item.state, isKnown(value) && `${title(mainColumn)} ${formatShortly(value)}`, labels && `labelled ${labels}`];
  return parts.filter(Boolean).join(", ");
}

function fillView(view, item, alt) {
  const picture = pictureOf(item);
  if (!picture) return null;
  const image = picture.webp ? [make("img", { src: `data:image/webp;base64,${picture.webp}`, alt })] : [];
  view.replaceChildren(...image, drawOutlines(picture));
  return picture;
}

// Cards: created once; sorting and filtering only moves them

const cards = cases.map((item) => {
  const view = make("span", { class: "view" });
  const value = make("span", { class: "value" });
  const [labels, second] = [make("span"), make("span")];
  const valueTitle = isKnown(item.values[mainColumn]) ? [make("span", { class: "screen-reader" }, title(mainColumn))] : [];
  const button = make("button", { type: "button", class: "card", tabindex: "-1" },
    view,
    make("span", { class: "row" }, make("span", { class: "name", title: item.image }, item.image), ...valueTitle, value),
    make("span", { class: "row more" }, labels, second));
  const element = make("li", {}, button);
  button.addEventListener("click", () => openViewer(item));
  button.addEventListener("focus", () => setTabStop(item));
  return { element, button, view, value, labels, second };
});
const caseOfElement = new Map(cards.map((card, index) => [card.element, cases[index]]));

function showPicture(item) {
  const { view } = cards[item.index];
  if (view.firstChild) return;
  const picture = fillView(view, item, "");
  const problems = [item.problem, ...(picture ? picture.problems : [])].filter(Boolean).join("; ");
  if (problems && (item.state !== "segmented" || (picture && !picture.webp))) view.append(make("span", { class: "problem" }, problems));
}

let isPrinting = false;
const visibility = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const item = caseOfElement.get(entry.target);
    if (entry.isIntersecting) showPicture(item);
    else if (!isPrinting) cards[item.index].view.replaceChildren();
  }
}, { rootMargin: "600px 0px" });

// Sort and filter

const gallery = byId("gallery");
const tools = byId("tools");
let visible = cases; // cases that match the filters, sorted

const collator = new Intl.Collator("en", { numeric: true });
function comparator(key, isDescending) {
  const sign = isDescending ? -1 : 1;
  if (key === "") return (a, b) => sign * (a.index - b.index);
  if (key === "name") return (a, b) => sign * collator.compare(a.name, b.name);
  return (a, b) => {
    const [x, y] = [a.values[key], b.values[key]];
    if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index; // unknown values stay last
    return sign * (x - y) || a.index - b.index;
  };
}

function filter() {
  const text = byId("text").value.trim().toLowerCase();
  const state = byId("state").value;
  const below = byId("below") && byId("below").value !== "" ? Number(byId("below").value) : null;
  const [kind, name] = byId("class") && byId("class").value ? byId("class").value.split(/:(.*)/s) : [];
  return (item) =>
    (!text || item.image.toLowerCase().includes(text)) &&
    (!state || item.state === state) &&
    (below === null || (item.values.jaccard !== null && item.values.jaccard < below)) &&
    (kind !== "label" || (item.labels || []).includes(name)) &&
    (kind !== "score" || item.values[name] > data.threshold);
}

const likeliestClass = (item) => data.classes.reduce((best, name) => (item.values[name] > (item.values[best] ?? -1) ? name : best), "");

// The small number on a card: the sorted column, else confidence, else the highest class score.
function secondColumn(item, sortKey) {
  if (sortKey && sortKey !== "name" && sortKey !== mainColumn) return sortKey;
  return mainColumn === "confidence" ? likeliestClass(item) : "confidence";
}

function arrange() {
  const sortKey = byId("sort").value;
  visible = cases.filter(filter()).sort(comparator(sortKey, byId("descending").checked));
  for (const item of visible) {
    const card = cards[item.index];
    const second = secondColumn(item, sortKey);
    card.value.textContent = formatShortly(item.values[mainColumn]) || (item.state === "failed" ? "failed" : "");
    card.labels.textContent = (item.labels || []).map(title).join(", ") || "\u00a0";
    card.second.textContent = second !== mainColumn && isKnown(item.values[second]) ? `${shortTitle(second)} ${item.values[second].toFixed(2)}` : "";
  }
  gallery.replaceChildren(...visible.map((item) => cards[item.index].element));
  setTabStop(visible[0]);
  byId("count").textContent = visible.length === cases.length ? `${cases.length} images` : `${visible.length} of ${cases.length} images`;
  byId("no-match").hidden = visible.length > 0 || cases.length === 0;
}

let timer = 0;
tools.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(arrange, 60); });
tools.addEventListener("reset", () => setTimeout(arrange));
tools.addEventListener("submit", (event) => event.preventDefault());

// Keyboard in the gallery: it is one stop of the tab key, and arrows move inside

let tabStop = null;
function setTabStop(item) {
  if (tabStop) cards[tabStop.index].button.tabIndex = -1;
  tabStop = item || null;
  if (tabStop) cards[tabStop.index].button.tabIndex = 0;
}

function focusCard(position) {
  if (!visible.length) return;
  const item = visible[Math.max(0, Math.min(visible.length - 1, position))];
  const { button, element } = cards[item.index];
  element.scrollIntoView({ block: "nearest" });
  button.focus();
}

const cardsPerRow = () => getComputedStyle(gallery).gridTemplateColumns.split(" ").length;
function moveInGallery(event) {
  const isInside = gallery.contains(document.activeElement);
  const position = visible.indexOf(tabStop);
  const letters = { j: isInside ? 1 : 0, k: isInside ? -1 : 0 };
  const arrows = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: cardsPerRow(), ArrowUp: -cardsPerRow(), Home: -position, End: visible.length };
  const letter = event.key.toLowerCase();
  if (event.key in arrows && isInside) focusCard(position + arrows[event.key]);
  else if (letter in letters && byId("keys").checked) focusCard(position + letters[letter]);
  else return false;
  return true;
}

// Viewer

const viewer = byId("viewer");
const well = byId("well");
const stage = byId("stage");
const zoom = { scale: 1, x: 0, y: 0 };
let current = null;

function openViewer(item) {
  current = item;
  const position = visible.indexOf(item);
  byId("viewer-title").textContent = item.image;
  byId("position").textContent = `${position + 1} of ${visible.length}`;
  byId("previous").disabled = position <= 0;
  byId("next").disabled = position >= visible.length - 1;
  const picture = fillView(stage, item, `Image ${describe(item)}`);
  const facts = [
    ["state", item.state],
    ["reason", item.problem],
    ["labels", item.labels && (item.labels.map(title).join(", ") || "none of the classes")],
    ["size", item.size],
    ["note", item.note],
    ["not shown", picture && picture.problems.filter((problem) => problem !== item.problem).join("; ")],
  ];
  const terms = facts.filter(([, value]) => value).flatMap(([key, value]) => [make("dt", {}, key), make("dd", {}, value)]);
  byId("facts").replaceChildren(make("dl", {}, ...terms));
  byId("values").replaceChildren(...columns.filter((key) => item.values[key] !== null).map((key) =>
    make("tr", {}, make("th", { scope: "row" }, title(key)), make("td", { class: "number" }, formatExactly(item.values[key])))));
  fit();
  if (!viewer.open) viewer.showModal();
  history.replaceState(null, "", `#case=${encodeURIComponent(item.name)}`);
}

function step(offset) {
  const next = visible[visible.indexOf(current) + offset];
  if (next) openViewer(next);
}

function applyZoom() {
  stage.style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
}
function fit() {
  Object.assign(zoom, { scale: 1, x: 0, y: 0 });
  applyZoom();
}
function zoomBy(factor, x = well.clientWidth / 2, y = well.clientHeight / 2) {
  const scale = Math.max(1, Math.min(16, zoom.scale * factor));
  zoom.x = x - ((x - zoom.x) * scale) / zoom.scale; // the point under the pointer stays in place
  zoom.y = y - ((y - zoom.y) * scale) / zoom.scale;
  zoom.scale = scale;
  if (scale === 1) fit();
  else applyZoom();
}
function pan(x, y) {
  if (zoom.scale === 1) return;
  zoom.x += x;
  zoom.y += y;
  applyZoom();
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

for (const [checkbox, className] of [["show-prediction", "no-prediction"], ["show-truth", "no-truth"]]) {
  if (byId(checkbox)) byId(checkbox).addEventListener("change", (event) => stage.classList.toggle(className, !event.target.checked));
}
const actions = { previous: () => step(-1), next: () => step(1), "zoom-in": () => zoomBy(1.5), "zoom-out": () => zoomBy(1 / 1.5), fit, close: () => viewer.close() };
for (const [id, action] of Object.entries(actions)) byId(id).addEventListener("click", action);
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("close", () => {
  history.replaceState(null, "", "#cases");
  focusCard(visible.indexOf(current));
});

function keyInViewer(event) {
  const key = event.key.toLowerCase();
  const pans = { arrowleft: [60, 0], arrowright: [-60, 0], arrowup: [0, 60], arrowdown: [0, -60] };
  const steps = { arrowleft: -1, arrowup: -1, arrowright: 1, arrowdown: 1 };
  const toggle = (id) => () => byId(id) && byId(id).click();
  const single = { j: () => step(1), k: () => step(-1), p: toggle("show-prediction"), t: toggle("show-truth"),
    "+": actions["zoom-in"], "=": actions["zoom-in"], "-": actions["zoom-out"], 0: fit };
  if (event.shiftKey && key in pans) pan(...pans[key]);
  else if (key in steps) step(steps[key]);
  else if (key in single && byId("keys").checked) single[key]();
  else return false;
  return true;
}

// Keyboard of the page

const help = byId("help");
byId("show-help").addEventListener("click", () => help.showModal());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  if (event.target.matches("input:not([type=checkbox]), select, textarea")) return;
  const usesLetters = byId("keys").checked;
  if (event.key === "?" && usesLetters) help.showModal();
  else if (event.key === "/" && usesLetters && !viewer.open) byId("text").focus();
  else if (!(viewer.open ? keyInViewer(event) : moveInGallery(event))) return;
  event.preventDefault();
});

// Print the first cases, with their pictures

window.addEventListener("beforeprint", () => {
  isPrinting = true;
  visible.forEach((item, position) => cards[item.index].element.classList.toggle("printed", position < MAX_PRINTED));
  visible.slice(0, MAX_PRINTED).forEach(showPicture);
  const printed = Math.min(MAX_PRINTED, visible.length);
  byId("printed").textContent = printed < cases.length ? `The first ${printed} of ${cases.length} images are printed.` : "";
});
window.addEventListener("afterprint", () => { isPrinting = false; });

arrange();
document.addEventListener("DOMContentLoaded", () => {
  cards.forEach((card) => visibility.observe(card.element));
  const name = decodeURIComponent((location.hash.match(/^#case=(.*)/) || ["", ""])[1]);
  const item = name && cases.find((candidate) => candidate.name === name);
  if (item) openViewer(item);
});

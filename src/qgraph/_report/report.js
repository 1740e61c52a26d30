"use strict";
// Sorting and searching the table of nodes, drawing the charts. Without it the page still reads.

// A node is a body of the table: its figures, and a row with cause and remedy where there is one.
const table = document.getElementById("nodes");
const nodes = [...table.tBodies];
const search = document.getElementById("search");
const count = document.getElementById("count");
const order = document.getElementById("order");
const texts = nodes.map((node) => node.textContent.toLowerCase());

function sortBy(header) {
  const index = [...header.parentElement.children].indexOf(header);
  const numeric = header.dataset.kind === "number";
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (node) => {
    const cell = node.rows[0].cells[index];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.value === undefined || cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const rows = nodes.map((node) => [key(node), node]);
  const sign = ascending ? 1 : -1;
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what has no figure comes last
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  table.append(...rows.map(([, node]) => node));
  order.textContent = `sorted by ${header.textContent}, ${ascending ? "ascending" : "descending"}`;
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  nodes.forEach((node, index) => {
    node.hidden = !words.every((word) => texts[index].includes(word));
    shown += !node.hidden;
  });
  count.textContent = `${shown} of ${nodes.length} nodes`;
}

for (const header of table.tHead.rows[0].cells) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}
search.addEventListener("input", filter);
filter();

// The graph around a node: opened by its name in the table, walked along its neighbors.
const graph = JSON.parse(document.getElementById("graph").textContent); // null where no model was beside the reports
const near = document.getElementById("near");
const before = [], after = [], places = new Map();
let opener = null;

function neighbor(place) {
  const [name, kind, profiles] = graph.nodes[place];
  const item = document.createElement("li");
  const outer = kind === "input" || kind === "output";
  const label = document.createElement(outer ? "span" : "button");
  label.textContent = name;
  if (!outer) { label.type = "button"; label.addEventListener("click", () => showNear(place)); }
  const note = document.createElement("small");
  note.textContent = outer ? `the model's ${kind}` : `${kind}, ${profiles ? `${near.dataset.format} in ${profiles}` : "float in all"}`;
  item.append(label, note);
  return item;
}

function showNear(place) {
  const [name, kind, profiles] = graph.nodes[place];
  document.getElementById("near-name").textContent = `${name} (${kind})`;
  for (const [side, ids] of [["before", before[place]], ["after", after[place]]]) {
    document.getElementById(`near-${side}`).replaceChildren(...ids.map(neighbor));
  }
  const quantized = profiles.split(" ");
  document.getElementById("near-formats").replaceChildren(...near.dataset.profiles.split(" ").flatMap((profile) => {
    const term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = profile;
    value.textContent = quantized.includes(profile) ? near.dataset.format : "float";
    return [term, value];
  }));
  near.hidden = false;
  document.getElementById("near-name").focus({ preventScroll: true });
  near.scrollIntoView({ block: "nearest" });
}

function hideNear() {
  near.hidden = true;
  if (opener) opener.focus();
}

if (graph) {
  graph.nodes.forEach(([name, kind], place) => {
    before.push([]); after.push([]);
    if (kind !== "input" && kind !== "output") places.set(name, place);
  });
  for (const [from, to] of graph.edges) { before[to].push(from); after[from].push(to); }
  for (const node of nodes) {
    const code = node.rows[0].cells[1].querySelector("code");
    if (!places.has(code.textContent)) continue;
    const button = document.createElement("button");
    button.type = "button"; button.className = "node";
    code.replaceWith(button); button.append(code);
  }
  table.addEventListener("click", (event) => {
    const button = event.target.closest("button.node");
    if (!button) return;
    opener = button;
    showNear(places.get(button.textContent));
  });
  near.addEventListener("keydown", (event) => { if (event.key === "Escape") hideNear(); });
  document.getElementById("near-close").addEventListener("click", hideNear);
}

// Open for printing, as the reader left it afterwards; charts as wide as the paper.
const PRINTED = 660; // pixels of the style sheet that fit between the margins of A4
const opened = [], views = [];
addEventListener("beforeprint", () => {
  for (const item of document.querySelectorAll("details:not([open])")) { item.open = true; opened.push(item); }
  for (const [place, view] of views) view.width(place.closest(".charts") ? PRINTED / 2 - 24 : PRINTED).run();
});
addEventListener("afterprint", () => {
  for (const item of opened.splice(0)) item.open = false;
  for (const [place, view] of views) view.width(place.clientWidth).run();
});

function choose(_event, item) {
  const node = item && item.datum && item.datum.node;
  if (!node) return;
  search.value = node;
  filter();
  if (places.has(node)) { opener = search; showNear(places.get(node)); }
  document.getElementById("nodes-heading").scrollIntoView();
}

const figures = JSON.parse(document.getElementById("figures").textContent);
const drawn = Object.entries(figures).map(async ([name, spec]) => {
  const place = document.getElementById(`chart-${name}`);
  const result = await vegaEmbed(place, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
  result.view.addEventListener("click", choose);
  views.push([place, result.view]);
});
Promise.all(drawn).then(() => { document.documentElement.dataset.drawn = "yes"; });

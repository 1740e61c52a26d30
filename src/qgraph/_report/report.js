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

// Open for printing, as the reader left it afterwards.
const opened = [];
addEventListener("beforeprint", () => {
  for (const item of document.querySelectorAll("details:not([open])")) { item.open = true; opened.push(item); }
});
addEventListener("afterprint", () => { for (const item of opened.splice(0)) item.open = false; });

function choose(_event, item) {
  const node = item && item.datum && item.datum.node;
  if (!node) return;
  search.value = node;
  filter();
  document.getElementById("nodes-heading").scrollIntoView();
}

const figures = JSON.parse(document.getElementById("figures").textContent);
const drawn = Object.entries(figures).map(async ([name, spec]) => {
  const place = document.getElementById(`chart-${name}`);
  const result = await vegaEmbed(place, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
  result.view.addEventListener("click", choose);
});
Promise.all(drawn).then(() => { document.documentElement.dataset.drawn = "yes"; });

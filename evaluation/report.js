"use strict";
// Sorting and searching the table of nodes, drawing the charts. Without it the page still reads.

const table = document.getElementById("nodes");
const body = table.tBodies[0];
const search = document.getElementById("search");
const count = document.getElementById("count");

function sortBy(header) {
  const index = [...header.parentElement.children].indexOf(header);
  const numeric = header.dataset.kind === "number";
  const ascending = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const key = (row) => {
    const cell = row.cells[index];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.value === undefined || cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const rows = [...body.rows].map((row) => [key(row), row]);
  const sign = ascending ? 1 : -1;
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what has no figure comes last
    return sign * (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
  });
  body.append(...rows.map(([, row]) => row));
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  count.textContent = `${shown} of ${body.rows.length} nodes`;
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

"use strict";
// Tables that a click on their head sorts, and the plots: unpacked, drawn in the colours of the reader's
// theme, drawn again when that changes, and for paper in light colours and at its width.

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const numbers = (column) => heads[column].classList.contains("number");
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!numbers(column)) return cell.textContent;
    return "value" in cell.dataset ? Number(cell.dataset.value) : null;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = numbers(column) ? "descending" : "ascending";
      const other = { ascending: "descending", descending: "ascending" };
      const order = other[head.getAttribute("aria-sort")] || first;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [key(one, column), key(two, column)];
        if (a === null || b === null) return (a === null) - (b === null); // cells without a number last
        return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
      });
      body.append(...rows);
    });
  });
}

async function unpacked(id) {
  const text = document.getElementById(id).textContent;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const pause = () => new Promise((resolve) => setTimeout(resolve));
const touch = matchMedia("(pointer: coarse)").matches; // there a finger on a plot scrolls the page
const config = {
  displaylogo: false,
  responsive: true,
  scrollZoom: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg" },
};
if (touch) config.displayModeBar = false;
let round = 0;

// The plots' colours are "var(--name)": they become what the style says now.
function drawAll(text) {
  const style = getComputedStyle(document.documentElement);
  const coloured = (_, value) =>
    typeof value === "string" && /^var\(--\w+\)$/.test(value)
      ? style.getPropertyValue(value.slice(4, -1)).trim()
      : value;
  return JSON.parse(text, coloured).map((plot) => () => {
    const layout = { ...plot.layout, dragmode: touch ? false : "zoom" };
    return Plotly.react(plot.id, plot.data, layout, config);
  });
}

async function drawInTurn(text) {
  const mine = ++round;
  for (const draw of drawAll(text)) {
    if (mine !== round) return; // the theme changed meanwhile: a later round draws all
    await draw();
    await pause();
  }
  document.documentElement.dataset.plots = "drawn";
}

function forPaper(text, folds) {
  document.documentElement.dataset.paper = "";
  folds.forEach((fold) => (fold.open = true));
  drawAll(text).forEach((draw) => draw());
  document.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot));
}

// A plot that was folded away has no width until its fold is opened.
addEventListener("toggle", () => dispatchEvent(new Event("resize")), true);

async function plots() {
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly"); // runs at once; the policy knows its hash
  document.head.append(script);
  const text = await unpacked("plots");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawInTurn(text));
  let folds = [];
  addEventListener("beforeprint", () => {
    folds = [...document.querySelectorAll("details:not([open])")];
    forPaper(text, folds);
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.paper;
    folds.forEach((fold) => (fold.open = false));
    drawInTurn(text);
  });
  await drawInTurn(text);
}

document.querySelectorAll("table.sortable").forEach(sortable);
if (document.getElementById("plots"))
  plots().catch((error) => {
    // An old browser: what is for readers without scripts is shown to this one as well.
    console.warn(`figures are shown as pictures: ${error}`);
    document.documentElement.dataset.plots = "none";
    document.querySelectorAll("noscript").forEach((none) => (none.outerHTML = none.textContent));
  });

"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const pickers = ["metric", "pair"].map((name) => document.getElementById(name)).filter(Boolean);
  let views = [];

  const style = getComputedStyle(document.documentElement);

  /** The spec with the theme's colours in the place of their names; its rows stay as they are. */
  function coloured({ data, ...rest }) {
    const text = JSON.stringify(rest).replace(/"theme:([a-z]+)"/g, (_, name) => JSON.stringify(style.getPropertyValue(`--${name}`).trim()));
    return { data, ...JSON.parse(text) };
  }

  function theme() {
    const [ink, soft, line, accent, font] = ["ink", "soft", "line", "accent", "sans"].map((name) => style.getPropertyValue(`--${name}`).trim());
    return {
      background: "transparent", font, padding: 2,
      view: { stroke: null },
      axis: { domain: false, ticks: false, grid: false, labelColor: soft, labelFontSize: 12, labelPadding: 8,
              titleColor: soft, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 12 },
      axisY: { grid: true, gridColor: line },
      axisXQuantitative: { grid: true, gridColor: line },
      axisYBand: { grid: false, labelColor: ink, labelFontSize: 13 },
      axisYPoint: { grid: false, labelColor: ink, labelFontSize: 13 },
      legend: { orient: "top", labelColor: ink, labelFontSize: 13, symbolType: "square" },
      line: { color: accent }, point: { color: accent }, rule: { color: soft }, text: { color: soft, fill: soft }, bar: { color: accent },
    };
  }

  async function draw() {
    views.forEach((result) => result.finalize());
    const drawn = Object.entries(charts).map(([id, spec]) => {
      const options = { renderer: "svg", actions: false, ast: true, config: theme(), tooltip: { theme: dark.matches ? "dark" : "light" } };
      return vegaEmbed(document.getElementById(id), coloured(spec), options);
    });
    views = await Promise.all(drawn);
    pick();
  }

  function pick() {
    for (const { view } of views) for (const picker of pickers) {
      try { view.signal(picker.id, picker.value).runAsync(); } catch { /* a chart without this choice */ }
    }
  }

  function sortBy(button) {
    const head = button.closest("th"), table = button.closest("table");
    const column = [...head.parentElement.children].indexOf(head);
    const first = button.dataset.kind === "text" ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const th of head.parentElement.children) th.setAttribute("aria-sort", th === head ? order : "none");
    const value = (row) => { const v = parseFloat(row.children[column].dataset.v); return Number.isNaN(v) ? -Infinity : v; };
    const sign = order === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("head"));
      rows.sort((x, y) => sign * (value(x) - value(y))).forEach((row) => body.append(row));
    }
  }

  document.querySelectorAll("button.sort").forEach((button) => button.addEventListener("click", () => sortBy(button)));
  pickers.forEach((picker) => picker.addEventListener("change", pick));
  dark.addEventListener("change", draw);
  draw();
})();

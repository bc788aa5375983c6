"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const picker = document.getElementById("metric");
  let views = [];

  function theme(id) {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line, accent, second, other] =
      ["ink", "soft", "line", "accent", "second", "other"].map((name) => style.getPropertyValue(`--${name}`).trim());
    const font = style.getPropertyValue("--sans").trim();
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
      range: { category: [accent, id.startsWith("slice-") ? other : second, other] },
      line: { color: accent }, point: { color: accent }, rule: { color: soft }, bar: { color: accent },
    };
  }

  async function draw() {
    views.forEach((result) => result.finalize());
    const drawn = Object.entries(charts).map(([id, spec]) => {
      const options = { renderer: "svg", actions: false, ast: true, config: theme(id), tooltip: { theme: dark.matches ? "dark" : "light" } };
      return vegaEmbed(document.getElementById(id), spec, options);
    });
    views = await Promise.all(drawn);
    pick();
  }

  function pick() {
    if (!picker) return;
    for (const { view } of views) {
      try { view.signal("metric", picker.value).runAsync(); } catch { /* a chart without a choice of metric */ }
    }
  }

  picker?.addEventListener("change", pick);
  dark.addEventListener("change", draw);
  draw();
})();

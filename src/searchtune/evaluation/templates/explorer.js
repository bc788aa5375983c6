"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("queries"), rankings = read("rankings");
  const $ = (id) => document.getElementById(id);
  const list = $("list");
  if (!list) return;
  const fields = { q: $("find"), a: $("side-a"), b: $("side-b"), slice: $("slice"), change: $("change"), sort: $("sort") };
  const STEP = 40, SAME = 1e-6;
  let shown = STEP, found = [];

  const place = (name, otherwise) => (data.systems.includes(name) ? data.systems.indexOf(name) : otherwise);
  const start = { q: "", a: String(place(data.a, 0)), b: String(place(data.b, 0)), slice: "", change: "", sort: data.systems.length > 1 ? "gain" : "low" };

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  const side = (key) => Number(fields[key].value);
  const gain = (row) => (row.scores[side("b")] ?? 0) - (row.scores[side("a")] ?? 0);

  function choose() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const slice = fields.slice.value, change = fields.change.value;
    const inside = (row) => slice === "" || (/^\d+$/.test(slice) ? row.bins.includes(Number(slice)) : row.slice === slice);
    const moved = (row) => { const g = gain(row); return change === "" || (change === "gained" ? g > SAME : change === "lost" ? g < -SAME : Math.abs(g) <= SAME); };
    const said = (row) => { const text = (row.id + " " + row.text).toLowerCase(); return words.every((word) => text.includes(word)); };
    const keys = { gain: (row) => -gain(row), loss: gain, move: (row) => -Math.abs(gain(row)), low: (row) => row.scores[side("b")] ?? 0, order: () => 0 };
    const key = keys[fields.sort.value] || keys.gain;
    found = data.rows.filter((row) => inside(row) && moved(row) && said(row)).map((row) => [key(row), row]).sort((x, y) => x[0] - y[0]).map((pair) => pair[1]);
  }

  function item(row) {
    const details = make("details", undefined, "example"), summary = make("summary"), change = gain(row);
    const tone = change > SAME ? "gain up" : change < -SAME ? "gain down" : "gain";
    summary.append(make("span", signed(change), tone), make("span", row.text, "query"));
    summary.append(make("span", `${figure(row.scores[side("a")])} → ${figure(row.scores[side("b")])}`, "scores"));
    if (row.slice !== "unknown") summary.append(make("span", row.slice, "chip"));
    details.append(summary);
    details.dataset.id = row.id;
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(inside(row)); });
    return details;
  }

  function inside(row) {
    const box = make("div", undefined, "inside");
    box.append(make("p", ["query " + row.id, ...row.bins.map((i) => data.bins[i].join(": "))].join(" · "), "note"));
    const ranked = rankings?.queries[row.id];
    if (!ranked) {
      box.append(make("p", "The rankings of this query are not in this file.", "note"));
      return box;
    }
    const a = data.systems[side("a")], b = data.systems[side("b")];
    box.append(moves(ranked, a, b));
    const sides = make("div", undefined, "sides");
    for (const name of a === b ? [a] : [a, b]) {
      const half = make("div");
      half.append(make("h4", name), hits(ranked, name));
      sides.append(half);
    }
    box.append(sides);
    return box;
  }

  function moves(ranked, a, b) {
    const lines = make("ul", undefined, "moves");
    const rank = (name, i) => { const at = ranked.ranks[name]?.[i]; return at ? "rank " + at : "not found"; };
    ranked.relevant.forEach((card, i) => {
      const line = make("li");
      const title = rankings.cards[card].title || rankings.cards[card].id;
      line.append(`“${title}” (grade ${ranked.grades[card]}): `, make("b", a === b ? rank(a, i) : `${rank(a, i)} → ${rank(b, i)}`));
      lines.append(line);
    });
    if (!ranked.relevant.length) lines.append(make("li", "No document is labelled relevant to this query."));
    return lines;
  }

  function hits(ranked, name) {
    const docs = ranked.top[name] || [];
    if (!docs.length) return make("p", "Nothing was returned.", "note");
    const lines = make("ol", undefined, "hits");
    for (const card of docs) {
      const { id, title, snippet } = rankings.cards[card], grade = ranked.grades[card];
      const relevant = grade !== undefined && grade >= rankings.min_grade;
      const line = make("li", undefined, relevant ? "relevant" : grade === undefined ? "unjudged" : "judged");
      const label = relevant ? `✓ relevant, grade ${grade}` : grade === undefined ? "not judged" : `not relevant, grade ${grade}`;
      line.append(make("b", title || id), " ", make("em", label), make("span", snippet));
      lines.append(line);
    }
    return lines;
  }

  function draw() {
    choose();
    list.replaceChildren(...found.slice(0, shown).map(item));
    const lost = found.filter((row) => gain(row) < -SAME).length, gained = found.filter((row) => gain(row) > SAME).length;
    const number = (n) => n.toLocaleString("en");
    $("count").textContent = `${number(found.length)} of ${number(data.rows.length)} queries: ${number(gained)} gained, ${number(lost)} lost, ${number(found.length - gained - lost)} the same.`;
    $("more").hidden = found.length <= shown;
    $("more").textContent = `Show ${number(Math.min(STEP, found.length - shown))} more`;
  }

  function remember() {
    const state = new URLSearchParams();
    for (const key in fields) if (fields[key].value !== start[key]) state.set(key, key === "a" || key === "b" ? data.systems[side(key)] : fields[key].value);
    try { history.replaceState(null, "", state.size ? "#" + state : location.pathname); } catch { /* a page without an address */ }
  }

  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const key in fields) {
      const given = state.get(key);
      const value = given === null ? start[key] : key === "a" || key === "b" ? String(place(given, Number(start[key]))) : given;
      fields[key].value = key === "slice" && given ? bin(given) : value;
      if (fields[key].selectedIndex === -1) fields[key].value = start[key];
    }
    shown = STEP;
    draw();
    const open = state.get("open");
    if (open !== null) for (const entry of list.children) if (entry.dataset.id === open) { entry.open = true; entry.scrollIntoView(); }
  }

  /** A bin by its number or its name. */
  function bin(given) {
    const at = data.bins.findIndex((pair) => pair[1] === given);
    return at === -1 ? given : String(at);
  }

  function change() { shown = STEP; remember(); draw(); }
  const form = $("controls");
  form.addEventListener("input", change);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => { event.preventDefault(); for (const key in fields) fields[key].value = start[key]; change(); });
  $("more").addEventListener("click", () => {
    const first = shown;
    shown += STEP;
    draw();
    list.children[first]?.querySelector("summary").focus();
  });
  addEventListener("hashchange", recall);
  if (!rankings) $("cut").textContent = "This report holds no rankings.";
  else if (rankings.left_out) $("cut").textContent = `To keep this file small, rankings of ${rankings.left_out.toLocaleString("en")} queries and ${rankings.snippet ? "the ends of texts" : "all texts"} are left out.`;
  else if (rankings.snippet < 240) $("cut").textContent = "To keep this file small, texts are cut short.";
  recall();
})();

"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const PAGE = 25, NONE = "–", scale = data.grades.length;
  const rows = data.rows.map(([query, doc, passage, first, second, firstShares, secondShares, sure, reason]) =>
    ({ query: data.queries[query][0], text: data.queries[query][1], doc, passage, first, second, firstShares, secondShares, sure, reason }));
  const keyOf = (query, doc) => JSON.stringify([query, doc]);
  const known = new Map(rows.map((row) => [keyOf(row.query, row.doc), row]));
  const fields = { q: $("find"), pair: $("pair"), state: $("state"), sort: $("sort"), unreadable: $("unreadable") };
  const start = { q: "", pair: "", state: "", sort: "sure", unreadable: "" };
  const number = (n) => n.toLocaleString("en");
  const many = (n, what) => `${number(n)} ${what}${n === 1 ? "" : "s"}`;
  let found = [], page = 0, labels = new Map();

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  const shown = (grade) => (grade === null ? NONE : String(grade));
  const pairOf = (row) => `${shown(row.first)}:${shown(row.second)}`;
  const unread = (row) => row.first === null || row.second === null;
  const apart = (row) => (unread(row) ? 0 : row.second - row.first);

  function load() {
    try { labels = new Map(Object.entries(JSON.parse(localStorage.getItem(data.key) || "{}")).filter(([key, grade]) => known.has(key) && right(grade))); }
    catch { say("This browser keeps nothing for this page: export your corrections before you close it."); }
  }
  function save() {
    try { localStorage.setItem(data.key, JSON.stringify(Object.fromEntries(labels))); }
    catch { say("This browser could not keep the correction: export before you close the page."); }
  }
  const right = (grade) => Number.isInteger(grade) && grade >= 0 && grade < scale;
  const say = (text) => { $("said").textContent = text; };

  function offerPairs() {
    const counts = new Map();
    for (const row of rows) counts.set(pairOf(row), (counts.get(pairOf(row)) || 0) + 1);
    fields.pair.append(new Option("any", ""));
    for (const [pair, count] of [...counts].sort()) fields.pair.append(new Option(`${pair.replace(":", " → ")}  (${number(count)})`, pair));
  }

  function choose() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const said = (row) => { const text = `${row.query} ${row.doc} ${row.text}`.toLowerCase(); return words.every((word) => text.includes(word)); };
    const done = (row) => labels.has(keyOf(row.query, row.doc));
    const state = fields.state.value;
    found = rows.filter((row) => (!fields.pair.value || pairOf(row) === fields.pair.value) && (!fields.unreadable.checked || unread(row))
      && (!state || done(row) === (state === "done")) && said(row));
    const keys = { unsure: (row) => (unread(row) ? 2 : row.sure), apart: (row) => -Math.abs(apart(row)), high: (row) => -apart(row), low: apart };
    const key = keys[fields.sort.value];
    if (key) found.sort((x, y) => key(x) - key(y));
    if (fields.sort.value === "query") found.sort((x, y) => (x.text < y.text ? -1 : x.text > y.text ? 1 : 0));
  }

  function marked(element, row) {
    const words = new Set((row.text.toLowerCase().match(/[\p{L}\p{N}]+/gu) || []).filter((word) => word.length > 3));
    for (const piece of row.passage.split(/([\p{L}\p{N}]+)/u)) element.append(words.has(piece.toLowerCase()) ? make("mark", piece) : piece);
  }

  function side(name, grade, shares, className) {
    const box = make("div", undefined, "side " + className), told = make("div"), bars = make("div", undefined, "bars");
    told.append(make("b", name), document.createElement("br"), make("span", grade === null ? "no grade" : data.grades[grade] === String(grade) ? `grade ${grade}` : `${grade}, ${data.grades[grade]}`));
    for (let g = 0; g < scale; g++) {
      const share = shares ? shares[g] : Number(g === grade), bar = make("div", undefined, g === grade ? "bar given" : "bar"), column = make("i");
      column.style.setProperty("--share", share);
      bar.title = shares ? `grade ${g}: ${(100 * share).toFixed(1)}%` : `grade ${g}`;
      bar.append(column, String(g));
      bars.append(bar);
    }
    box.append(told, bars);
    return box;
  }

  function buttons(row, entry) {
    const box = make("div", undefined, "labels"), key = keyOf(row.query, row.doc);
    box.append(make("span", "The right grade"));
    const paint = () => {
      entry.classList.toggle("done", labels.has(key));
      [...box.querySelectorAll("button")].forEach((button, grade) => button.setAttribute("aria-pressed", String(labels.get(key) === grade)));
    };
    entry.label = (grade) => {
      if (labels.get(key) === grade) labels.delete(key); else labels.set(key, grade);
      save(); paint(); count();
    };
    data.grades.forEach((meaning, grade) => {
      const button = make("button", String(grade));
      button.type = "button";
      button.title = meaning;
      button.addEventListener("click", () => entry.label(grade));
      box.append(button);
    });
    paint();
    return box;
  }

  function item(row) {
    const entry = make("article", undefined, "pair"), left = make("div"), judged = make("div", undefined, "judged");
    entry.tabIndex = 0;
    entry.dataset.query = row.query;
    entry.dataset.doc = row.doc;
    left.append(make("h3", row.text), make("p", `query ${row.query} · document ${row.doc}`, "ids"));
    const passage = make("p", undefined, "passage");
    marked(passage, row);
    left.append(passage);
    if (row.passage.length > 600) {
      passage.classList.add("cut");
      const more = make("button", "Whole passage", "whole");
      more.type = "button";
      more.addEventListener("click", () => { more.textContent = passage.classList.toggle("cut") ? "Whole passage" : "Less"; });
      left.append(more);
    }
    judged.append(side(data.first, row.first, row.firstShares, "first"), side(data.second, row.second, row.secondShares, "second"));
    if (row.reason) judged.append(make("p", row.reason, "why"));
    judged.append(buttons(row, entry));
    entry.append(left, judged);
    return entry;
  }

  function count() {
    $("count").textContent = `${number(found.length)} of ${number(rows.length)} disagreements, ${number(labels.size)} corrected.`;
    $("export").disabled = $("clear").disabled = !labels.size;
  }

  function draw() {
    choose();
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    $("list").replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map(item));
    if (!found.length) $("list").append(make("p", rows.length ? "No pair is like that." : "The two sides agree on every pair.", "note"));
    $("page").textContent = `page ${number(page + 1)} of ${number(pages)}`;
    $("back").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
    count();
  }

  function lines() {
    return [...labels].map(([key, grade]) => {
      const [query_id, doc_id] = JSON.parse(key), row = known.get(key);
      return JSON.stringify({ query_id, doc_id, grade, was: { [data.first]: row.first, [data.second]: row.second } }) + "\n";
    }).join("");
  }

  function exported() {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([lines()], { type: "application/x-ndjson" }));
    link.download = "corrections.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`${many(labels.size, "correction")} exported as corrections.jsonl.`);
  }

  function imported(text) {
    let taken = 0, unknown = 0, broken = 0;
    for (const line of text.split(/\r?\n/)) {
      if (!line.trim()) continue;
      let entry;
      try { entry = JSON.parse(line); } catch { broken++; continue; }
      const key = entry && typeof entry === "object" ? keyOf(entry.query_id, entry.doc_id) : "";
      if (!entry || !right(entry.grade)) broken++;
      else if (!known.has(key)) unknown++;
      else { labels.set(key, entry.grade); taken++; }
    }
    save();
    draw();
    const lost = [unknown && `${many(unknown, "line")} of pairs that are not in this page`, broken && `${many(broken, "line")} without a grade from 0 to ${scale - 1}`].filter(Boolean);
    say(`${many(taken, "correction")} taken${lost.length ? ", left out: " + lost.join(", ") : ""}.`);
  }

  function remember() {
    const state = new URLSearchParams();
    for (const key in fields) { const value = key === "unreadable" ? (fields[key].checked ? "1" : "") : fields[key].value; if (value !== start[key]) state.set(key, value); }
    if (page) state.set("page", page + 1);
    try { history.replaceState(null, "", state.size ? "#" + state : location.pathname); } catch { /* a page without an address */ }
  }
  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const key in fields) {
      if (key === "unreadable") { fields[key].checked = state.get(key) === "1"; continue; }
      fields[key].value = state.get(key) ?? start[key];
      if (fields[key].selectedIndex === -1) fields[key].value = start[key];
    }
    page = (parseInt(state.get("page"), 10) || 1) - 1;
    draw();
  }

  const change = () => { page = 0; draw(); remember(); };
  const turn = (step) => { page += step; draw(); remember(); scrollTo(0, 0); };
  $("controls").addEventListener("input", change);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const key in fields) if (key === "unreadable") fields[key].checked = false; else fields[key].value = start[key];
    change();
  });
  $("back").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  $("export").addEventListener("click", exported);
  $("import").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    const file = $("file").files[0];
    if (!file) return;
    try { imported(await file.text()); } catch { say(`${file.name} could not be read.`); }
    $("file").value = "";
  });
  $("clear").addEventListener("click", () => {
    if (!confirm(`Forget ${many(labels.size, "correction")}? Export first what you need.`)) return;
    labels.clear(); save(); draw(); say("");
  });
  $("list").addEventListener("keydown", (event) => {
    const entry = event.target.closest(".pair");
    if (!entry || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^\d$/.test(event.key) && right(Number(event.key))) entry.label(Number(event.key));
    else if (event.key === "j" || event.key === "k") (event.key === "j" ? entry.nextElementSibling : entry.previousElementSibling)?.focus();
    else return;
    event.preventDefault();
  });
  addEventListener("hashchange", recall);
  offerPairs();
  load();
  recall();
})();

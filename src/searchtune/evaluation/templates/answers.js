"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const STEP = 30, SAME = 0.0005, RISE = 0.05;
  const fields = { q: $("find"), condition: $("condition"), system: $("system"), show: $("show"), sort: $("sort") };
  const start = { q: "", condition: data.main, system: data.headline, show: "", sort: data.reference ? "lost" : "low" };
  const number = (n) => n.toLocaleString("en");
  let found = [], shown = STEP;

  function make(tag, text, className) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  }
  const system = () => fields.system.value;
  const view = (row) => row.shown[fields.condition.value];
  const answer = (row, name = system()) => view(row).answers[name];
  const score = (row, name, key = "overall") => answer(row, name).scores[key];
  const change = (row) => (data.reference === null || system() === data.reference ? null
    : (score(row, system()) ?? 0) - (score(row, data.reference) ?? 0));
  const below = (value, limit) => value !== null && value !== undefined && value < limit;

  const kinds = {
    bold: ["answered, though no passage has the answer", (row) => !view(row).gold.length && !answer(row).abstained],
    shy: ["abstained, though a passage has the answer", (row) => view(row).gold.length > 0 && answer(row).abstained],
    cites: ["cites a wrong passage, or none", (row) => below(answer(row).scores.citation_precision, 1)],
    loose: ["sentences without support", (row) => answer(row).doubtful.length > 0],
    poor: ["answered, but far from the reference", (row) => view(row).gold.length > 0 && !answer(row).abstained && below(answer(row).scores.token_f1, 0.2)],
    worse: [`worse than ${data.reference}`, (row) => change(row) !== null && change(row) < -RISE],
    better: [`better than ${data.reference}`, (row) => change(row) !== null && change(row) > RISE],
  };
  for (const [kind, label] of Object.entries(data.errors)) kinds[`error-${kind}`] = [label, (row) => row.errors[system()] === kind];
  if (data.reference === null) { delete kinds.worse; delete kinds.better; }

  function choose() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean), kind = kinds[fields.show.value];
    const text = (row) => [row.id, row.question, ...Object.values(view(row).answers).map((it) => it.text)].join(" ").toLowerCase();
    const keys = { lost: (row) => change(row) ?? score(row), gained: (row) => -(change(row) ?? 0), low: (row) => score(row) ?? 2, order: () => 0 };
    const key = keys[fields.sort.value] || keys.order;
    found = data.rows.filter((row) => (!kind || kind[1](row)) && (!words.length || words.every((word) => text(row).includes(word))));
    found = found.map((row) => [key(row) ?? 2, row]).sort((x, y) => x[0] - y[0]).map((pair) => pair[1]);
  }

  const MARK = /\[\s*\d{1,4}(?:\s*[,;–-]\s*\d{1,4})*\s*\]/g;
  function cite(n, row, texts) {
    const there = n >= 1 && n <= view(row).passages.length;
    const button = make("button", `[${n}]`, there ? (view(row).gold.includes(n - 1) ? "cite gold" : "cite") : "cite lost");
    button.type = "button";
    button.title = there ? (view(row).gold.includes(n - 1) ? "this passage has the answer" : "this passage is not known to have the answer") : "there is no such passage";
    if (there) button.addEventListener("click", () => {
      [...texts.children].forEach((item, place) => item.classList.toggle("lit", place === n - 1));
      texts.children[n - 1].scrollIntoView({ block: "nearest", behavior: "smooth" });
    });
    return button;
  }
  function withMarks(element, text, row, texts) {
    let from = 0;
    for (const mark of text.matchAll(MARK)) {
      element.append(text.slice(from, mark.index));
      for (const n of mark[0].match(/\d+/g)) element.append(cite(Number(n), row, texts));
      from = mark.index + mark[0].length;
    }
    element.append(text.slice(from));
  }
  function said(it, row, texts) {
    const box = make("p", undefined, it.abstained ? "said abstained" : "said");
    let rest = it.text;
    for (const sentence of it.doubtful) {
      const core = sentence.replace(/[\s.!?"”’)]+$/, ""), place = core ? rest.indexOf(core) : -1;
      if (place < 0) continue;
      withMarks(box, rest.slice(0, place), row, texts);
      const doubt = make("span", core, "doubt");
      doubt.title = "no passage has these words";
      box.append(doubt);
      rest = rest.slice(place + core.length);
    }
    withMarks(box, rest, row, texts);
    if (!it.text) box.append("(an empty answer)");
    const marked = new Set([...it.text.matchAll(MARK)].flatMap((mark) => mark[0].match(/\d+/g).map(Number)));
    for (const n of it.cites) if (!marked.has(n)) box.append(" ", cite(n, row, texts));
    return box;
  }

  const NAMES = { overall: "overall", token_f1: "token F1", citation_precision: "citation precision", citation_recall: "recall", unsupported: "unsupported", unsupported_judge: "by the judge" };
  function card(name, row, texts) {
    const it = answer(row, name), box = make("div", undefined, name === system() ? "answer chosen" : "answer"), head = make("h4", name);
    const should = !view(row).gold.length;
    head.append(make("span", it.abstained ? (should ? "rightly abstained" : "abstained") : should ? "should have abstained" : "answered", `chip ${it.abstained === should ? "good" : "bad"}`));
    if (row.errors[name]) head.append(make("span", data.errors[row.errors[name]], "chip"));
    const scores = Object.entries(NAMES).filter(([key]) => it.scores[key] !== null && it.scores[key] !== undefined).map(([key, label]) => `${label} ${figure(it.scores[key])}`);
    box.append(head, said(it, row, texts), make("p", scores.join(" · "), "scores"));
    return box;
  }

  function passages(row) {
    const list = make("ol", undefined, "texts"), names = data.systems.filter((name) => answer(row, name));
    view(row).passages.forEach((place, at) => {
      const item = make("li", undefined, view(row).gold.includes(at) ? "gold" : ""), text = make("span", data.passages[place], "text");
      item.append(make("span", `[${at + 1}]`, "n"), text);
      if (view(row).gold.includes(at)) item.append(make("em", "has the answer"));
      const by = names.filter((name) => answer(row, name).cites.includes(at + 1));
      if (by.length) item.append(make("em", `cited by ${by.join(", ")}`, "by"));
      if (data.passages[place].length > 480) {
        text.classList.add("cut");
        const more = make("button", "Whole passage", "whole");
        more.type = "button";
        more.addEventListener("click", () => { more.textContent = text.classList.toggle("cut") ? "Whole passage" : "Less"; });
        item.append(document.createElement("br"), more);
      }
      list.append(item);
    });
    return list;
  }

  function inside(row) {
    const box = make("div", undefined, "inside"), texts = passages(row), answers = make("div", undefined, "answers");
    box.append(make("p", `question ${row.id} · ${row.answerable ? "has an answer" : "has no answer in any passage"}`, "note"));
    answers.append(...data.systems.map((name) => card(name, row, texts)));
    box.append(answers);
    if (row.references.length) {
      const list = make("ul", undefined, "refs");
      list.append(...row.references.map((text) => make("li", text)));
      box.append(make("h4", row.references.length > 1 ? "People answered (any of these)" : "People answered"), list);
    }
    const head = make("h4", texts.children.length ? "Passages shown" : "No passages were shown");
    head.style.marginTop = "14px";
    box.append(head, texts);
    return box;
  }

  function item(row) {
    const details = make("details", undefined, "example"), summary = make("summary"), moved = change(row);
    if (moved !== null) summary.append(make("span", signed(moved), moved > SAME ? "gain up" : moved < -SAME ? "gain down" : "gain"));
    summary.append(make("span", row.question, "query"));
    const it = answer(row), should = !view(row).gold.length;
    if (it.abstained !== should) summary.append(make("span", it.abstained ? "abstained" : "should abstain", "chip bad"));
    summary.append(make("span", moved === null ? figure(score(row)) : `${figure(score(row, data.reference))} → ${figure(score(row))}`, "scores"));
    details.append(summary);
    details.dataset.id = row.id;
    details.addEventListener("toggle", () => { if (details.open && details.children.length === 1) details.append(inside(row)); });
    return details;
  }

  function worst() {
    const buttons = ["bold", "shy", "cites", "loose", "poor", "worse"].filter((kind) => kinds[kind]).map((kind) => {
      const count = data.rows.filter(kinds[kind][1]).length, button = make("button");
      if (!count) return null;
      button.type = "button";
      button.dataset.kind = kind;
      button.setAttribute("aria-pressed", String(fields.show.value === kind));
      button.append(make("b", number(count)), kinds[kind][0]);
      button.addEventListener("click", () => { fields.show.value = fields.show.value === kind ? "" : kind; touched(); });
      return button;
    });
    $("worst").replaceChildren(...buttons.filter(Boolean));
  }

  function draw() {
    choose();
    worst();
    $("list").replaceChildren(...found.slice(0, shown).map(item));
    if (!found.length) $("list").append(make("p", "No question is like that.", "note"));
    $("count").textContent = `${number(found.length)} of ${number(data.rows.length)} questions.`;
    $("further").hidden = found.length <= shown;
  }
  function remember() {
    const state = new URLSearchParams();
    for (const key in fields) if (fields[key].value !== start[key]) state.set(key, fields[key].value);
    try { history.replaceState(null, "", state.size ? "#" + state : location.pathname); } catch { /* a page without an address */ }
  }
  function recall() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const key in fields) {
      fields[key].value = state.get(key) ?? start[key];
      if (fields[key].selectedIndex === -1) fields[key].value = start[key];
    }
    shown = STEP;
    draw();
  }
  function touched() { shown = STEP; draw(); remember(); }

  for (const [name, label] of Object.entries(data.conditions)) fields.condition.append(new Option(label, name));
  for (const name of data.systems) fields.system.append(new Option(name, name));
  fields.show.append(new Option("all questions", ""));
  for (const [kind, [label]] of Object.entries(kinds)) fields.show.append(new Option(label, kind));
  $("controls").addEventListener("input", touched);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  $("controls").addEventListener("reset", (event) => { event.preventDefault(); for (const key in fields) fields[key].value = start[key]; touched(); });
  $("further").addEventListener("click", () => { shown += STEP; draw(); });
  addEventListener("hashchange", recall);
  recall();
})();

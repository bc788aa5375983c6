/** Every cell bears its column's heading: narrow screens show rows as blocks, where no column is cut off. */
for (const table of document.querySelectorAll(".scroll table")) {
  const heads = [...(table.tHead?.rows[0]?.cells ?? [])].map((cell) => cell.innerText.replace(/\s+/g, " ").trim());
  for (const body of table.tBodies) for (const row of body.rows) {
    if (row.cells.length === heads.length) [...row.cells].forEach((cell, place) => { cell.dataset.label = heads[place]; });
  }
  table.classList.add("labelled");
}

"use strict";
for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table"), body = table.tBodies[0], tools = box.querySelector(".tools");
  const rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const chosen = new Map(); // column -> value
  let typed = "";

  const input = document.createElement("input");
  input.type = "search";
  input.placeholder = "filter";
  input.setAttribute("aria-label", "filter rows");
  const count = document.createElement("span");
  count.className = "count";
  count.setAttribute("aria-live", "polite");
  tools.append(input);

  const worth = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;

  function filter() {
    let shown = 0;
    for (const row of rows) {
      const fits = [...chosen].every(([column, value]) => worth(row, column) === value);
      row.hidden = !(fits && row.textContent.toLowerCase().includes(typed));
      shown += !row.hidden;
    }
    count.textContent = shown === rows.length ? `${shown} row${shown === 1 ? "" : "s"}` : `${shown} of ${rows.length} rows`;
  }

  input.addEventListener("input", () => { typed = input.value.toLowerCase(); filter(); });

  heads.forEach((head, column) => {
    if (!head.hasAttribute("data-filter")) return;
    for (const value of new Set(rows.map((row) => worth(row, column)))) {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.textContent = value || "(none)";
      chip.setAttribute("aria-pressed", "false");
      chip.addEventListener("click", () => {
        const on = chip.getAttribute("aria-pressed") === "false";
        for (const other of tools.querySelectorAll(`button[data-column="${column}"]`))
          other.setAttribute("aria-pressed", "false");
        chip.setAttribute("aria-pressed", String(on));
        if (on) chosen.set(column, value); else chosen.delete(column);
        filter();
      });
      chip.dataset.column = column;
      tools.append(chip);
    }
  });
  tools.append(count);

  function key(row, column) {
    const cell = row.cells[column];
    if (!("key" in cell.dataset)) return worth(row, column);
    return cell.dataset.key === "" ? null : Number(cell.dataset.key);
  }

  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = [...rows].sort((a, b) => {
        const x = key(a, column), y = key(b, column);
        if (x === null || y === null) return (x === null) - (y === null); // unknown goes last
        const order = typeof x === "number" && typeof y === "number"
          ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return down ? -order : order;
      });
      body.append(...sorted);
    });
  });
  filter();
}

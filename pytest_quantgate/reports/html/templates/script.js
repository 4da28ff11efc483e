"use strict";
(() => {
  const root = document.documentElement, one = id => document.getElementById(id);

  // The theme: the system's until somebody chooses; kept where the browser keeps anything.
  const button = one("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
  const show = () => { button.setAttribute("aria-pressed", isDark()); button.textContent = isDark() ? "Light" : "Dark"; };
  try { const kept = localStorage.getItem("quantgate-theme"); if (kept) root.dataset.theme = kept; } catch { /* not kept */ }
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("quantgate-theme", root.dataset.theme); } catch { /* not kept */ }
    show();
  });
  dark.addEventListener("change", show);
  show();

  // Sorting: numbers by their value, what has none last; words as people order them.
  const key = cell => cell.classList.contains("number")
    ? (cell.dataset.value === undefined || cell.dataset.value === "nan" ? null : Number(cell.dataset.value.replace("inf", "Infinity")))
    : cell.textContent.trim();
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map(row => [key(row.cells[column]), row]);
      rows.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1
        : sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true })));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // Filters of the matrix.
  const cells = one("cells");
  if (cells) {
    const rows = [...cells.tBodies[0].rows], find = one("find"), verdicts = one("verdicts"), models = one("models");
    const filter = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase(), verdict = verdicts?.value;
        const fits = words.every(word => text.includes(word))
          && (!verdict || (verdict === "red" ? row.dataset.red === "1" : row.dataset.verdict === verdict))
          && (!models?.value || row.dataset.model === models.value);
        row.hidden = !fits;
        shown += fits;
      }
      one("count").textContent = `${shown} of ${rows.length} ${one("count").dataset.noun ?? "cells"}`;
    };
    for (const control of [find, verdicts, models].filter(Boolean)) for (const event of ["input", "change"]) control.addEventListener(event, filter);
    find.form.addEventListener("submit", event => event.preventDefault());
    filter();
  }

  // Points of some devices or importance matrices alone.
  for (const figure of document.querySelectorAll(".plot")) {
    const boxes = [...figure.querySelectorAll(".choices input")];
    const draw = () => {
      for (const mark of figure.querySelectorAll(".mark")) {
        const isHidden = boxes.some(box => !box.checked && mark.dataset[box.dataset.kind] === box.value);
        mark.style.display = isHidden ? "none" : "";
      }
    };
    for (const box of boxes) box.addEventListener("change", draw);
  }

  // What a point says, for mouse, finger and keyboard.
  const tip = one("tip");
  const place = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 12, innerWidth - box.width - 4))}px`;
    tip.style.top = `${y + box.height + 20 > innerHeight ? y - box.height - 12 : y + 14}px`;
  };
  for (const mark of document.querySelectorAll("[data-description]")) {
    const at = () => { const box = mark.querySelector(".target").getBoundingClientRect(); place(mark.dataset.description, box.right - 8, box.bottom - 8); };
    for (const event of ["mouseenter", "focus", "click"]) mark.addEventListener(event, at);
    for (const event of ["mouseleave", "blur"]) mark.addEventListener(event, () => { tip.hidden = true; });
  }
  addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
  // Moving on by keyboard scrolls the page: what the point says goes with it.
  addEventListener("scroll", () => { tip.hidden = true; if (document.activeElement?.matches("[data-description]")) document.activeElement.dispatchEvent(new Event("focus")); }, { passive: true });

  // Experts: drawn when they are asked for, from numbers.
  for (const block of document.querySelectorAll(".experts")) {
    const data = JSON.parse(block.querySelector("script").textContent), box = block.querySelector(".scroll");
    const [format, what] = block.querySelectorAll("select");
    const draw = () => {
      const chosen = data[format.value], values = chosen[what.value], all = values.flat().filter(v => v !== null);
      const low = Math.min(...all), high = Math.max(...all);
      const table = document.createElement("table");
      table.className = "heat";
      const caption = document.createElement("span");
      table.createCaption().append(caption);
      caption.textContent = `${format.value}: ${what.selectedOptions[0].text}; darker is more`;
      const head = table.createTHead().insertRow();
      const title = (row, text, scope, kind) => { const th = document.createElement("th"); th.scope = scope; th.className = kind; th.textContent = text; row.append(th); };
      title(head, "layer", "col", "sticky");
      values[0].forEach((_, n) => title(head, `expert ${n}`, "col", "number"));
      const body = table.createTBody();
      values.forEach((line, n) => {
        const row = body.insertRow();
        title(row, chosen.layers[n], "row", "sticky");
        for (const value of line) {
          const cell = row.insertCell();
          cell.className = "number";
          cell.textContent = value === null ? "–" : what.value === "load" ? `${(100 * value).toFixed(1)} %` : value.toFixed(4);
          if (value !== null && high > low) cell.style.setProperty("--heat", ((value - low) / (high - low)).toFixed(2));
        }
      });
      box.replaceChildren(table);
    };
    for (const choice of [format, what]) choice.addEventListener("change", draw);
    block.addEventListener("toggle", () => { if (block.open && !box.firstChild) draw(); });
    addEventListener("beforeprint", draw);
  }

  // On paper nothing is folded away.
  let folded = [];
  addEventListener("beforeprint", () => { folded = [...document.querySelectorAll("details:not([open])")]; for (const item of folded) item.open = true; });
  addEventListener("afterprint", () => { for (const item of folded) item.open = false; });
})();

const table = document.querySelector("table"), body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
function sort(head) {
  const column = head.cellIndex, numbers = head.classList.contains("number");
  const first = numbers ? "descending" : "ascending", second = numbers ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? second : first;
  const text = (row) => row.cells[column].textContent;
  const compare = (a, b) => numbers ? text(a) - text(b) : text(a).localeCompare(text(b), undefined, {numeric: true});
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((a, b) => (text(a) === "") - (text(b) === "") || sign * compare(a, b));
  body.append(...rows);
  for (const other of heads) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
}
for (const head of heads.filter((head) => head.textContent)) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}

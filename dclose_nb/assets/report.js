const all = (query) => [...document.querySelectorAll(query)];
const value = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const opacity = document.querySelector("#opacity");
function show() {
  const object = value("object"), layer = value("layer");
  document.querySelector(".picture").classList.toggle("bare", layer === "none");
  for (const heat of all(".heat")) {
    heat.hidden = heat.dataset.object !== object || heat.dataset.layer !== layer;
    heat.style.opacity = opacity.value / 100;
  }
  const boxes = document.querySelector("#boxes").checked;
  for (const group of all("svg g")) {
    const chosen = group.dataset.object === object;
    group.classList.toggle("chosen", chosen);
    group.style.visibility = boxes || chosen ? "" : "hidden";
  }
  document.querySelector("#percent").textContent = `${opacity.value} %`;
}
document.querySelector("svg").addEventListener("click", ({target}) => {
  const box = target.closest("g");
  if (!box) return; // a click beside all boxes
  document.querySelector(`input[name=object][value="${box.dataset.object}"]`).checked = true;
  show();
});
document.addEventListener("input", show);
show();

const all = (query) => [...document.querySelectorAll(query)];
const value = (name) => (document.querySelector(`input[name=${name}]:checked`) || {}).value;
const opacity = document.querySelector("#opacity");
function show() {
  const object = value("object"), layer = value("layer");
  for (const heat of all(".heat")) {
    heat.hidden = heat.dataset.object !== object || heat.dataset.layer !== layer;
    heat.style.opacity = opacity.value / 100;
  }
  const boxes = document.querySelector("#boxes").checked;
  for (const box of all("svg g")) {
    const chosen = box.dataset.object === object;
    box.lastElementChild.classList.toggle("chosen", chosen);
    box.style.display = boxes || chosen ? "" : "none";
  }
  document.querySelector("#percent").textContent = `${opacity.value} %`;
}
document.addEventListener("input", show);
show();

const explorer = this.closest('.dclose-explorer');
const mend = () => {
  explorer.querySelectorAll('select, button, input, textarea, [tabindex]').forEach(control =>
    control.setAttribute('data-lm-suppress-shortcuts', 'true'));  // keys are for it, not for the notebook
  explorer.querySelectorAll('.widget-slider').forEach(slider =>
    slider.querySelector('[role=slider]')?.setAttribute('aria-label', slider.querySelector('label').innerText));
  const upload = explorer.querySelector('.widget-upload')?.lastChild;
  if (upload?.data) upload.data = upload.data.replace(/ \(\d+\)$/, '');
  const code = explorer.querySelector('.dclose-code textarea');  // to select and copy, by keys too
  if (code) { code.readOnly = true; code.disabled = false; }
  const field = document.activeElement;  // a new placeholder would take away what is being typed
  if (field.typed !== undefined && field.value !== field.typed) field.value = field.typed;
};
if (explorer) {
  mend();
  explorer.addEventListener('input', ({target}) => { target.typed = target.value; });
  explorer.addEventListener('change', ({target}) => { delete target.typed; });
  explorer.addEventListener('click', (event) => {  // the second of a double click would save again
    if (event.detail > 1 && event.target.closest('.dclose-save')) event.stopPropagation();
  }, true);
  new MutationObserver(mend).observe(explorer,
    {childList: true, subtree: true, attributeFilter: ['placeholder', 'disabled']});
}

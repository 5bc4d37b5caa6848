// What widgets of others leave without a name: a screen reader would say “combo box” and nothing else.
"use strict";

function nameSelect(select) {
  const box = select.nextElementSibling?.querySelector(".select2-selection");
  const label = select.id && document.querySelector(`label[for="${CSS.escape(select.id)}"]`);
  const shown = box?.querySelector(".select2-selection__rendered");
  if (!box || !shown) return;
  shown.removeAttribute("role"); // it is a part of the combo box, and no field of its own
  shown.removeAttribute("aria-readonly");
  const name = label ? label.textContent.trim() : select.getAttribute("aria-label") || select.name;
  box.removeAttribute("aria-labelledby");
  box.setAttribute("aria-label", shown.title ? `${name}: ${shown.title}` : name);
}

function nameAll(root) {
  for (const select of root.querySelectorAll("select.select2-hidden-accessible")) nameSelect(select);
  for (const help of root.querySelectorAll(".help-tooltip[aria-label]")) help.setAttribute("role", "img");
}

window.addEventListener("load", () => {
  setTimeout(() => nameAll(document)); // after the others that wait for this event
  if (!window.django?.jQuery) return;
  django.jQuery(document).on("change formset:added", () => setTimeout(() => nameAll(document)));
});

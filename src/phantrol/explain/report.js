// The page is whole without this: it adds the filter of the gallery and the copy button.
for (const group of document.querySelectorAll(".filter")) {
  group.hidden = false;
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    for (const each of group.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button));
    for (const card of document.querySelectorAll(".card"))
      card.hidden = button.dataset.show !== "all" && card.dataset.verdict !== button.dataset.show;
  });
}
for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}

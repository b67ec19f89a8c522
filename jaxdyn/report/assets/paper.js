"use strict";
// The chart of the pair that is chosen.
(() => {
  const box = document.getElementById("chart");
  if (!box) return;
  const charts = JSON.parse(document.getElementById("charts").textContent), choice = document.getElementById("pair");
  const one = chart(box, charts[choice.value]);
  choice.onchange = () => one.set(charts[choice.value], true);
})();
(() => {
  for (const button of document.querySelectorAll("button.copy")) button.onclick = async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
})();

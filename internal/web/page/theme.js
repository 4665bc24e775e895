// Light or dark: as the system, unless somebody has chosen.
import { find } from "./dom.js";

const name = "torbpf-theme";

export function chooseTheme() {
  const choice = find("theme");
  const wear = () => {
    if (choice.value === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice.value;
  };
  choice.value = localStorage.getItem(name) ?? "system";
  if (!choice.value) choice.value = "system";
  choice.addEventListener("change", () => {
    localStorage.setItem(name, choice.value);
    wear();
  });
  wear();
}

// What `torbpf doctor` finds, when somebody asks: it takes a moment.
import { ask } from "./api.js";
import { count } from "./format.js";
import { find, make, write } from "./dom.js";

const sound = ["ok", "not-applicable"]; // which nobody has to read

export function doctor() {
  const button = find("examine");
  const said = find("doctor-said");
  const list = find("findings");
  button.addEventListener("click", async () => {
    button.setAttribute("aria-busy", "true");
    write(said, "looking …");
    try {
      const report = await ask("GET", "/v1/doctor");
      const found = report.checks.flatMap((check) => (check.findings ?? []).map((f) => ({ ...f, id: check.id })))
        .filter((f) => !sound.includes(f.verdict));
      list.replaceChildren(...found.map(finding));
      write(said, `${count(report.checks.length, "check", "checks")}, ${count(found.length, "finding", "findings")}: ${report.verdict}`);
    } catch (error) {
      write(said, error.message);
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
}

const finding = (f) => make("li", { class: f.verdict }, make("strong", {}, `${f.verdict} (${f.id}): `), f.reason,
  ...f.fix.map((fix) => make("div", {}, make("code", {}, fix))));

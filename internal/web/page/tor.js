// How each tor is.
import { count, size, span } from "./format.js";
import { find, keeper, make, write } from "./dom.js";

export function tors() {
  const show = keeper(find("tors"), (t) => t.instance, card);
  return (report) => show(report.instances);
}

function card(first) {
  const title = make("h3");
  const bar = make("progress", { max: "100", "aria-label": `Bootstrap of tor ${first.instance}` });
  const said = make("p");
  const more = make("p", { class: "faint" });
  const node = make("li", {}, title, bar, said, more);
  return {
    node,
    update(t) {
      write(title, t.version ? `tor ${t.version}` : `tor number ${t.instance}`);
      bar.value = t.percent;
      write(said, t.alive ? `${t.percent}% (${t.summary})${t.ready ? ", serves devices" : ", refuses devices"}` : `No answer: ${t.summary}. ${t.next}`);
      write(more, t.alive ? [
        count(t.circuits, "circuit", "circuits"), count(t.devices, "device", "devices"),
        t.rate ? `${size(t.rate.read)}/s in, ${size(t.rate.written)}/s out` : `${size(t.read_bytes)} in, ${size(t.written_bytes)} out`,
        `up for ${span(t.uptime_ns / 1e6)}`,
        t.guards.filter((g) => g.connected).map((g) => `guard ${g.nickname || g.fingerprint}`).join(", "),
        t.clock_skew && `this clock is ${t.clock_skew}`, t.warning,
      ].filter(Boolean).join(" · ") : "");
    },
  };
}

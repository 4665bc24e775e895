// What happens, as `torbpf events` prints it.
import { Refused, follow } from "./api.js";
import { find, make, write } from "./dom.js";

const shown = 100;
const again = 3000; // milliseconds until a stream that has ended is asked for once more

export function events(ended) {
  const list = find("event-list");
  const button = find("follow");
  const said = find("follow-said");
  let stop;

  async function run() {
    const aborter = new AbortController();
    stop = () => aborter.abort();
    while (!aborter.signal.aborted) {
      list.replaceChildren();
      try {
        await follow("/v1/events?follow=1&since=1h", aborter.signal, (e) => list.prepend(line(e)) ?? trim(list));
        write(said, "");
      } catch (error) {
        if (aborter.signal.aborted) return;
        if (error instanceof Refused && error.status === 401) return ended();
        write(said, error.message);
      }
      await new Promise((done) => setTimeout(done, again));
    }
  }

  const press = (on) => {
    button.setAttribute("aria-pressed", String(on));
    stop?.();
    stop = undefined;
    if (on) run();
  };
  button.addEventListener("click", () => press(button.getAttribute("aria-pressed") !== "true"));
  return { start: () => press(true), stop: () => stop?.() };
}

function trim(list) {
  while (list.children.length > shown) list.lastChild.remove();
}

function line(e) {
  if (e.error) return make("li", { class: "trouble" }, e.error);
  const time = new Date(e.time);
  return make("li", { class: e.kind }, make("time", { datetime: e.time }, time.toLocaleTimeString()), `${e.kind} `, text(e));
}

// text tells an event in the words of the command.
function text(e) {
  const p = e.packet;
  if (!p) return e.text;
  const protocol = { 1: "icmp", 6: "tcp", 17: "udp" }[p.protocol] ?? `ip-${p.protocol}`;
  return `${e.device ? `${e.device} ` : ""}${p.src} > ${p.dst}, ${protocol}, by ${p.interface}: ${p.reason}, ${p.meaning}`;
}

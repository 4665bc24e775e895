// What `torbpf status` says, in short.
import { count, size } from "./format.js";
import { find, make, write } from "./dom.js";

export function showStatus(status, devices) {
  const sum = (fate) => devices.reduce((all, d) => all + (d.traffic[fate]?.bytes ?? 0), 0);
  const names = (list) => list.map((i) => i.name).join(", ") || "none";
  tiles([
    ["Devices are", status.ready ? "served by Tor" : "refused, Tor is not ready", status.ready ? "good" : "bad"],
    ["Tor", status.tor.alive ? `${status.tor.percent}%, ${status.tor.version}` : "no answer", status.tor.alive ? "" : "bad"],
    ["LANs", names(status.interfaces)],
    ["Uplinks", names(status.uplinks)],
    ...(status.waiting.length ? [["Blocked until there", status.waiting.join(", ")]] : []),
    ["This machine", status.client ? "on Tor" : "not on Tor"],
    ["By Tor", size(sum("tor"))],
    ["Direct", size(sum("direct"))],
    ["Last guards stopped", count(status.stopped, "packet", "packets"), status.stopped ? "bad" : "good"],
    ["Rules", String(status.rules.length)],
  ]);
  headline(status);
  problems(status);
  counters(status.counters);
}

function headline(status) {
  const line = find("headline");
  const bad = status.stopped > 0 || status.problems.length > 0;
  line.className = bad ? "bad" : status.ready ? "good" : "";
  if (status.stopped > 0) write(line, "Alarm: packets got as far as the last guards, which stopped them");
  else if (bad) write(line, `Not in order: ${count(status.problems.length, "problem", "problems")}`);
  else if (!status.ready) write(line, "Devices are refused until Tor is ready");
  else write(line, "All is in order");
}

function tiles(list) {
  const box = find("tiles");
  while (box.children.length > list.length) box.lastChild.remove();
  list.forEach(([name, value, style = ""], i) => {
    const tile = box.children[i] ?? box.appendChild(make("div", {}, make("dt"), make("dd")));
    tile.className = style;
    write(tile.firstChild, name);
    write(tile.lastChild, value);
  });
}

function problems(status) {
  const list = [
    ...status.problems.map((text) => ["Problem", text]),
    ...status.warnings.map((text) => ["Warning", text]),
    ...status.unfit.map((text) => ["Waiting", text]),
  ];
  const key = JSON.stringify(list);
  const box = find("problem-list");
  if (box.dataset.shown === key) return;
  box.dataset.shown = key;
  box.replaceChildren(...list.map(([kind, text]) =>
    make("li", { class: kind.toLowerCase() }, make("strong", {}, `${kind}: `), text)));
  find("problems").hidden = list.length === 0;
}

function counters(list) {
  const body = find("counters");
  while (body.children.length > list.length) body.lastChild.remove();
  list.forEach((c, i) => {
    const row = body.children[i] ?? body.appendChild(make("tr", {}, ...Array.from({ length: 5 }, () => make("td"))));
    [c.interface, c.verdict, c.reason, String(c.packets), String(c.bytes)].forEach((text, cell) => write(row.children[cell], text));
  });
}

// The devices, each with its switch. A switch is three buttons and no group of radio buttons: those
// change with the arrow keys, and nobody is to let a device out by passing over it.
import { ask, routerNow } from "./api.js";
import { at, size, span } from "./format.js";
import { circuitList, renew, usedBy } from "./circuits.js";
import { find, keeper, make, write } from "./dom.js";
import { refusedWords } from "./traffic.js";

const times = [["600", "for 10 minutes"], ["3600", "for 1 hour"], ["0", "until changed"]];
const policies = [["tor", "Tor"], ["direct", "Direct"], ["block", "Block"]];

// idOf is how the API knows a device.
export const idOf = (d) => d.mac ?? d.addresses[0];

export const titleOf = (d) => d.name || d.addresses[0] || d.mac;

// byTitle keeps each device in its place: a button that moves away is another's.
const byTitle = (a, b) => Number(!a.name) - Number(!b.name) || titleOf(a).localeCompare(titleOf(b), "en", { numeric: true });

// devices returns what shows them; changed is called once one was switched.
export function devices(changed) {
  const show = keeper(find("device-list"), idOf, (d) => card(d, changed));
  return (list, circuits) => {
    find("no-devices").hidden = list.length > 0;
    show(list.toSorted(byTitle).map((d) => ({ ...d, circuits: usedBy(circuits, d) })));
  };
}

function card(first, changed) {
  const id = idOf(first);
  const parts = {
    title: make("h3"), meta: make("p", { class: "faint" }), under: make("p", { class: "under" }), sent: make("dl", { class: "sent" }),
    choice: make("div", { class: "choice", role: "group" }), time: make("select"),
    renew: make("button", { type: "button", class: "renew" }, "New identity"), circuits: circuitList(),
  };
  for (const [value, text] of times) parts.time.append(make("option", { value }, text));
  let now = first;
  for (const [policy, text] of policies) {
    const button = make("button", { type: "button", class: policy, "data-policy": policy }, text);
    button.addEventListener("click", () => press(id, titleOf(now), policy, parts, changed));
    parts.choice.append(button);
  }
  parts.renew.addEventListener("click", () => renew(parts.renew, find("device-said"), titleOf(now), id, changed));
  for (const name of ["By Tor", "Direct", "Local", "Refused"]) parts.sent.append(make("div", {}, make("dt", {}, name), make("dd")));
  const node = make("li", { "data-device": id }, parts.title, parts.meta, parts.under, parts.sent,
    make("div", { class: "switch" }, parts.choice, parts.time, parts.renew), parts.circuits.node);
  return { node, update: (d) => { now = d; update(node, parts, d); } };
}

function update(node, parts, d) {
  node.className = d.policy;
  const title = titleOf(d);
  write(parts.title, title);
  parts.choice.setAttribute("aria-label", `What ${title} may do`);
  parts.time.setAttribute("aria-label", `How long ${title} may`);
  parts.renew.setAttribute("aria-label", `New identity for ${title}`);
  parts.circuits.update(d.circuits, title, routerNow());
  write(parts.meta, [d.mac, ...d.addresses].filter((text) => text && text !== title).join(" · ") || "no address known");
  let under = { tor: "By Tor", direct: "Direct, past Tor", block: "Blocked" }[d.policy] ?? "Not known while it has no address";
  if (d.until) under += ` until ${at(d.until)}, ${span(Date.parse(d.until) - routerNow())} left`;
  if (d.comment) under += ` (${d.comment})`;
  write(parts.under, under);
  const silent = d.silent_ns === null ? "never sent" : `silent for ${span(d.silent_ns / 1e6)}`;
  parts.under.title = silent;
  const sent = [size(d.traffic.tor.bytes), size(d.traffic.direct.bytes), size(d.traffic.local.bytes), refusedWords(d)];
  sent.forEach((text, i) => write(parts.sent.children[i].lastChild, text));
  for (const button of parts.choice.children) button.setAttribute("aria-pressed", String(button.dataset.policy === d.policy));
}

async function press(id, title, policy, parts, changed) {
  const said = find("device-said");
  const seconds = policy === "tor" ? 0 : Number(parts.time.value);
  parts.choice.setAttribute("aria-busy", "true");
  try {
    const { warnings } = await ask("PUT", `/v1/devices/${encodeURIComponent(id)}/policy`, { policy, seconds });
    const how = seconds ? times.find(([value]) => Number(value) === seconds)[1] : policy === "tor" ? "" : "until changed";
    write(said, [`${title}: ${policies.find(([p]) => p === policy)[1]} ${how}`.trim(), ...warnings].join(". "));
  } catch (error) {
    write(said, `${title} is as it was: ${error.message}`);
  } finally {
    parts.choice.removeAttribute("aria-busy");
    changed();
  }
}

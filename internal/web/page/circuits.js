// Circuits, and new ones.
import { ask } from "./api.js";
import { count, span } from "./format.js";
import { find, make, write } from "./dom.js";

// usedBy are the circuits that a device has used.
export function usedBy(circuits, d) {
  const names = [d.name, d.mac, ...d.addresses].filter(Boolean);
  return circuits.filter((c) => c.devices.some((who) => names.includes(who)));
}

const hop = (relay) => (relay.nickname || relay.fingerprint) + (relay.country ? ` (${relay.country})` : "");

// pathOf tells a circuit: its relays, and how old it is.
export const pathOf = (c, now) => `${c.path.map(hop).join(" → ")}, ${span(now - Date.parse(c.created))} old`;

// circuitList returns a part of a card that folds, and update(circuits, now) for it.
export function circuitList() {
  const summary = make("summary");
  const list = make("ul");
  const node = make("details", { class: "circuits" }, summary, list);
  return {
    node,
    update(circuits, title, now) {
      write(summary, count(circuits.length, "circuit", "circuits"));
      node.setAttribute("aria-label", `Circuits of ${title}`);
      node.hidden = circuits.length === 0;
      while (list.children.length > circuits.length) list.lastChild.remove();
      circuits.forEach((c, i) => write(list.children[i] ?? list.appendChild(make("li")), pathOf(c, now)));
    },
  };
}

// renew has new circuits used, by a device or by all, and says what has come of it.
export async function renew(button, said, title, device, changed) {
  button.setAttribute("aria-busy", "true");
  write(said, `${title}: …`);
  try {
    const done = await ask("POST", "/v1/tor/newnym", { device });
    const closed = device ? `${count(done.closed + done.unknown, "circuit was", "circuits were")} closed` : "what begins from now on uses new circuits";
    write(said, [`${title}: ${closed}`, done.skipped.length > 0 && `not there: ${done.skipped.join(", ")}`].filter(Boolean).join(". "));
  } catch (error) {
    write(said, `${title} has the circuits that it had: ${error.message}`);
  } finally {
    button.removeAttribute("aria-busy");
    changed();
  }
}

// renewAll readies the button for all.
export function renewAll(changed) {
  const button = find("new-identity");
  button.addEventListener("click", () => renew(button, find("tor-said"), "All", "", changed));
}

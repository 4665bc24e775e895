// Throughput and refusals: the difference of two readings of the kernel's counters.
import { count, size } from "./format.js";
import { find } from "./dom.js";
import { plot } from "./plot.js";

const fates = { "by Tor": "tor", direct: "direct", local: "local" };
const reasonsShown = 4; // and the rest together

export function traffic() {
  const sent = plot(find("throughput"), (v) => `${size(v)}/s`);
  const refused = plot(find("refusals"), (v) => `${v < 10 ? v.toFixed(1) : Math.round(v)}/s`);
  const styles = [];
  let before;

  // readings takes what devices and status have, at a time in milliseconds.
  return (devices, status, at) => {
    const now = { at, bytes: {}, reasons: {} };
    for (const fate of Object.values(fates)) {
      now.bytes[fate] = devices.reduce((sum, d) => sum + (d.traffic[fate]?.bytes ?? 0), 0);
    }
    for (const c of status.counters) {
      if (c.verdict === "refused") now.reasons[c.reason] = (now.reasons[c.reason] ?? 0) + c.packets;
    }
    if (before && at > before.at) {
      const rate = (a, b) => Math.max(0, (a - (b ?? 0)) / ((at - before.at) / 1000));
      sent(Object.fromEntries(Object.entries(fates).map(([name, fate]) =>
        [name, { value: rate(now.bytes[fate], before.bytes[fate]), style: fate }])));
      refused(byReason(now.reasons, before.reasons, rate));
    }
    before = now;
  };

  function byReason(reasons, old, rate) {
    const out = {};
    for (const [reason, packets] of Object.entries(reasons)) {
      if (!styles.includes(reason) && styles.length < reasonsShown) styles.push(reason);
      const known = styles.indexOf(reason);
      const name = known < 0 ? "other reasons" : reason;
      out[name] ??= { value: 0, style: known < 0 ? reasonsShown : known };
      out[name].value += rate(packets, old[reason]);
    }
    return out;
  }
}

// refusedWords tells how many packets of a device were refused, as `torbpf device list` does.
export const refusedWords = (d) => count(d.traffic.refused?.packets ?? 0, "packet", "packets");

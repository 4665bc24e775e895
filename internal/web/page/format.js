// Figures in the words of the commands.

// size writes bytes as `torbpf device list` does.
export function size(bytes) {
  if (bytes < 1000) return `${Math.round(bytes)} B`;
  let value = bytes;
  let prefix = -1;
  while (value >= 1000 && prefix < 4) {
    value /= 1000;
    prefix++;
  }
  return `${value.toFixed(1)} ${"kMGTP"[prefix]}B`;
}

export const count = (n, one, more) => (n === 1 ? `1 ${one}` : `${n} ${more}`);

// span writes milliseconds as somebody says them.
export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// at writes a time, and its day where that is another.
export function at(time, now = new Date()) {
  const d = new Date(time);
  const clock = d.toLocaleTimeString();
  return d.toDateString() === now.toDateString() ? clock : `${d.toLocaleDateString()} ${clock}`;
}

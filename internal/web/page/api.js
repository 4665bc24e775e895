// The API, as far as the page may ask it (docs/API.md). The session has two halves: a cookie that
// no script can read, and this key, which other ports of the same address never see.

const keyHeader = "Torbpf-Key";
const keyName = "torbpf-key";

// Refused is what the API says no to, by its status.
export class Refused extends Error {
  constructor(status, body) {
    super(body.error ?? `the router says ${status}`);
    this.status = status;
    this.body = body;
  }
}

// Away says that nobody answers.
export class Away extends Error {}

let ahead = 0; // milliseconds that the router's clock is ahead of this one

export const routerNow = () => Date.now() + ahead;
export const hasKey = () => localStorage.getItem(keyName) !== null;
export const forget = () => localStorage.removeItem(keyName);

async function send(method, path, body, signal) {
  const headers = {};
  const key = localStorage.getItem(keyName);
  if (key) headers[keyHeader] = key;
  if (method !== "GET") headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, signal, body: body && JSON.stringify(body),
      credentials: "same-origin", cache: "no-store", redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Away("the router does not answer");
  }
  const date = Date.parse(answer.headers.get("Date"));
  if (date && Math.abs(date - routerNow()) > 2000) ahead = date - Date.now();
  if (answer.ok) return answer;
  if (answer.status === 502) throw new Away("torbpf run does not answer");
  throw new Refused(answer.status, await answer.json().catch(() => ({})));
}

// ask makes one request and returns what comes.
export async function ask(method, path, body) {
  return (await send(method, path, body)).json();
}

// byLink and byPassword begin a session.
export const byLink = (word) => begin("/v1/session/link", { word });
export const byPassword = (password) => begin("/v1/session", { password });

async function begin(path, by) {
  const granted = await ask("POST", path, by);
  localStorage.setItem(keyName, granted.key);
}

export async function signOut() {
  await ask("DELETE", "/v1/session").finally(forget);
}

// follow calls told for each object of a stream, until it ends.
export async function follow(path, signal, told) {
  const answer = await send("GET", path, undefined, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) told(JSON.parse(line));
  }
}

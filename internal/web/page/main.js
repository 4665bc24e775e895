// The page: a door, and what is behind it. It reads what the commands read, every two seconds
// while somebody looks.
import { Away, Refused, ask, byLink, byPassword, forget, hasKey, routerNow, signOut } from "./api.js";
import { renewAll } from "./circuits.js";
import { devices } from "./devices.js";
import { doctor } from "./doctor.js";
import { events } from "./events.js";
import { at } from "./format.js";
import { find, write } from "./dom.js";
import { showStatus } from "./status.js";
import { chooseTheme } from "./theme.js";
import { tors } from "./tor.js";
import { traffic } from "./traffic.js";

const pause = 2000; // milliseconds between readings

const showDevices = devices(() => look());
const showTors = tors();
const showTraffic = traffic();
const stream = events(() => door("The session has ended."));
let timer;
let looking = false;
let open = false;

function notice(text, bad = false) {
  const box = find("notice");
  write(box, text);
  box.hidden = text === "";
  box.classList.toggle("bad", bad);
}

// door asks who is there.
function door(text = "", password = true) {
  open = false;
  clearTimeout(timer);
  stream.stop();
  forget();
  find("inside").hidden = find("sign-out").hidden = true;
  find("door").hidden = false;
  find("sign-in").hidden = !password;
  find("no-password").hidden = password;
  write(find("headline"), "Signed out");
  find("headline").className = "";
  notice(text);
  if (password) find("password").focus();
}

function enter() {
  open = true;
  find("door").hidden = true;
  find("inside").hidden = find("sign-out").hidden = false;
  notice("");
  stream.start();
  look();
}

// look reads everything once, and plans the next time.
async function look() {
  if (looking || !open) return;
  looking = true;
  clearTimeout(timer);
  try {
    const [status, listed, report, used] = await Promise.all(
      ["/v1/status", "/v1/devices", "/v1/tor", "/v1/tor/circuits"].map((path) => ask("GET", path)));
    showStatus(status, listed.devices);
    showDevices(listed.devices, used.circuits);
    showTors(report);
    showTraffic(listed.devices, status, performance.now());
    fresh();
  } catch (error) {
    stale(error);
  }
  looking = false;
  if (open && !document.hidden) timer = setTimeout(look, pause);
}

function fresh() {
  document.body.classList.remove("stale");
  document.body.dataset.read = String(Number(document.body.dataset.read ?? 0) + 1);
  notice("");
  write(find("foot"), `As the router had it at ${at(routerNow())}.`);
}

// stale says why what is shown is of before.
function stale(error) {
  if (error instanceof Refused && error.status === 401) return door("The session has ended.", error.body.password !== false);
  document.body.classList.add("stale");
  find("headline").className = "bad";
  if (error instanceof Refused && error.status === 409) {
    write(find("headline"), "Nothing is on Tor");
    notice("Nothing is attached, so devices go out directly: `sudo torbpf attach INTERFACE` puts them on Tor.", true);
  } else if (error instanceof Away) {
    write(find("headline"), "No answer");
    notice(`${error.message}. What is in the kernel goes on; what is shown here is of before. See: systemctl status torbpf`, true);
  } else {
    write(find("headline"), "Not known");
    notice(error.message, true);
  }
}

async function begin() {
  try {
    chooseTheme();
  } catch {
    return notice("This page keeps its session in cookies and storage of this address: allow them.", true);
  }
  const word = location.hash.slice(1);
  if (/^[A-Za-z0-9_-]{43}$/.test(word)) {
    history.replaceState(null, "", location.pathname); // it is worth nothing any more, and belongs into no history
    try {
      await byLink(word);
      return enter();
    } catch (error) {
      return door(error.message, error.body?.password !== false);
    }
  }
  try {
    await ask("GET", "/v1/session");
    enter();
  } catch (error) {
    const text = error instanceof Refused && error.status === 401 ? (hasKey() ? "The session has ended." : "") : error.message;
    door(text, error.body?.password !== false);
  }
}

find("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = find("password");
  try {
    await byPassword(field.value);
    enter();
  } catch (error) {
    notice(error.message, true);
    field.select();
  }
  field.value = "";
});
find("sign-out").addEventListener("click", () => signOut().then(() => door(), (error) => door(error.message)));
renewAll(() => look());
doctor();
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
begin();

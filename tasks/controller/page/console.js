"use strict";
// Everything that came from elsewhere is put in as text, never as markup: reasons are written by people.
const $ = (id) => document.getElementById(id);
const POLL_MS = 2000, PATIENCE_MS = 8000, WINDOW_MS = 15 * 60 * 1000, GAP_MS = 12000;
const store = { get token() { return sessionStorage.getItem("token") || ""; }, set token(v) { sessionStorage.setItem("token", v); } };
let told = null, lastSeen = 0, pressing = null, asked = 0, drawn = 0;

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
const short = (release) => (release ? release.slice(0, 12) : "none");
function ago(iso) {
  const s = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  if (s < 90) return `${Math.round(s)} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
}
// the judge's sentences are long: the beginning, and the rest on demand
function folded(text) {
  const said = text.replaceAll("->", "\u2192");
  if (said.length < 150) return said;
  const made = el("details", {}, el("summary", {}, el("span", {}, `${said.slice(0, 110)}\u2026 more`)), said);
  made.open = unfolded.has(text);
  made.addEventListener("toggle", () => { if (made.open) unfolded.add(text); else unfolded.delete(text); });
  return made;
}
const unfolded = new Set(); // survives the redrawing
const role = (release) => ["champion", "challenger", "previous"].find((r) => told[r] && short(told[r].release) === short(release)) || "";

async function ask(path, options = {}) {
  const stop = new AbortController(), timer = setTimeout(() => stop.abort(), options.patience || PATIENCE_MS);
  const headers = { accept: "application/json" };
  if (store.token) headers.authorization = `Bearer ${store.token}`;
  if (options.body) headers["content-type"] = "application/json";
  try {
    const reply = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", signal: stop.signal });
    const body = await reply.json().catch(() => ({}));
    if (!reply.ok) throw Object.assign(new Error(body.error || `the controller answered ${reply.status}`), { status: reply.status });
    return body;
  } catch (err) {
    if (err.status) throw err;
    throw Object.assign(new Error(err.name === "AbortError" ? "the controller is busy: no answer in time" : "the controller does not answer"), { status: 0 });
  } finally { clearTimeout(timer); }
}

// an answer that was asked for before another one that is drawn already is an older picture
async function look() {
  const mine = ++asked, seen = await ask("console/data");
  if (mine < drawn) return;
  drawn = mine; told = seen; lastSeen = Date.now();
  trouble("");
  draw();
}
async function poll() {
  try { await look(); } catch (err) {
    const since = lastSeen ? ` What you see is ${Math.round((Date.now() - lastSeen) / 1000)} s old.` : "";
    trouble(err.status ? err.message : `${err.message}. Traffic stays as it is; the router keeps its last routes.${since}`);
    $("state").textContent = "no answer"; $("state").className = "chip bad";
  }
  setTimeout(poll, POLL_MS);
}
function trouble(text) { $("trouble").textContent = text; $("trouble").hidden = !text; }

function draw() {
  const active = running();
  const [word, tone] = !told.champion ? ["nothing serves", "bad"] : active ? [`${told.rollout.step} of ${short(told.rollout.release)}`, "unsure"] : ["serving", "good"];
  $("state").textContent = word + (told.frozen ? ", frozen" : "");
  $("state").className = `chip ${told.frozen ? "unsure" : tone}`;
  $("seen").textContent = `revision ${told.revision}, ${new Date(told.now).toLocaleTimeString()}`;
  $("alerts").replaceChildren(...told.alerts.map((a) => el("li", { class: a.severity }, el("b", {}, a.name), ` ${a.summary} `, el("small", {}, `${a.runbook}, since ${ago(a.since)}`))));
  $("frozen").textContent = told.frozen ? `Frozen${told.frozen_because ? ` (${told.frozen_because})` : ""}: nothing is promoted until somebody unfreezes.` : "";
  $("frozen").hidden = !told.frozen;
  drawServing(); drawRollout(active); drawCharts(); drawHistory();
  $("rollback").disabled = !told.champion || (!active && !told.previous);
  $("abort").disabled = !active;
  $("freeze").disabled = told.frozen;
  $("unfreeze").disabled = !told.frozen;
}
const running = () => Boolean(told.rollout && !told.rollout.ended);

function drawServing() {
  const weights = Object.entries(told.weights);
  $("bar").replaceChildren(...weights.filter(([, w]) => w).map(([release, weight]) => {
    const part = el("span", { class: role(release) }, `${weight} %`);
    part.style.width = `${weight}%`;
    return part;
  }));
  $("bar").setAttribute("aria-label", weights.map(([r, w]) => `${short(r)} ${w} percent`).join(", ") || "no traffic");
  $("roles").replaceChildren(...["champion", "challenger", "previous"].map((name) => {
    const one = told[name];
    if (!one) return el("div", { class: name }, el("dt", {}, name), el("dd", { class: "quiet" }, "none"));
    const weight = told.weights[one.release] || 0;
    return el("div", { class: name }, el("dt", {}, `${name}, ${weight} % of traffic`),
      el("dd", { class: "digest", title: one.release }, short(one.release)),
      el("dd", { class: "quiet" }, `${one.version === short(one.release) ? "" : `${one.version}, `}since ${ago(one.since)}`),
      el("dd", {}, el("a", { href: `decision/${one.release}` }, "why it may serve")));
  }));
}

function drawRollout(active) {
  const one = told.rollout;
  if (!one) { $("rollout-said").textContent = "None yet."; $("ladder").replaceChildren(); $("findings").replaceChildren(); return; }
  const link = el("a", { href: `decision/${one.release}` }, "the gate's decision");
  $("rollout-said").replaceChildren(el("b", {}, `${one.id} of ${short(one.release)}: ${one.state}`), `, ${active ? `step ${one.step} since ${ago(one.entered)}` : `ended ${ago(one.ended)}`}. `, folded(one.reason), " ", link);
  const at = one.steps.indexOf(one.step);
  $("ladder").replaceChildren(...one.steps.map((name, place) => {
    const state = one.state === "promoted" || place < at ? "done" : place === at ? (active ? "now" : "stopped") : "";
    return el("li", state ? { class: state } : {}, name.replace("canary ", ""));
  }));
  const findings = (one.observations && one.observations.findings) || [];
  $("findings").replaceChildren(...findings.map((f) => el("li", {}, el("span", { class: `mark ${f.outcome}` }, f.outcome), el("span", {}, f.said.replaceAll("->", "\u2192")))));
}

const CHARTS = [
  ["Requests a second", "rate", (v) => (v ? v.toFixed(v < 10 ? 1 : 0) : "0")],
  ["Error rate", "error_rate", (v) => (v ? `${(v * 100).toFixed(v < 0.01 ? 2 : 1)} %` : "0 %")],
  ["p50, ms", "p50_ms", (v) => `${v}`],
  ["p99, ms", "p99_ms", (v) => `${v}`],
];
function drawCharts() { $("charts").replaceChildren(...CHARTS.map(([title, field, shown]) => chart(title, field, shown))); }

function chart(title, field, shown) {
  const W = 420, H = 150, L = 44, R = 8, T = 8, B = 20, end = Date.parse(told.now), points = told.points;
  const begin = Math.min(end - 60000, points.length ? Date.parse(points[0].at) : end);
  const releases = [...new Set(points.flatMap((p) => Object.keys(p.releases)))].filter((r) => points.some((p) => p.releases[r] && p.releases[r].rate > 0)).slice(-4);
  const values = points.flatMap((p) => releases.map((r) => (p.releases[r] ? p.releases[r][field] : null))).filter((v) => v !== null);
  const top = nice(Math.max(...values, field === "error_rate" ? 0.01 : 1));
  const x = (t) => L + ((t - begin) / (end - begin)) * (W - L - R), y = (v) => H - B - (v / top) * (H - T - B);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title} of the last ${Math.round((end - begin) / 60000)} minutes` });
  for (const share of [0, 0.5, 1]) {
    picture.append(svg("line", { class: "axis", x1: L, x2: W - R, y1: y(top * share), y2: y(top * share) }));
    picture.append(svg("text", { x: L - 6, y: y(top * share) + 4, "text-anchor": "end" }, shown(top * share)));
  }
  picture.append(svg("text", { x: L, y: H - 4 }, `${Math.round((end - begin) / 60000)} min ago`), svg("text", { x: W - R, y: H - 4, "text-anchor": "end" }, "now"));
  const legend = [];
  for (const release of releases) {
    let path = "", before = null, last = null;
    for (const p of points) {
      const t = Date.parse(p.at), seen = p.releases[release], value = seen ? seen[field] : null;
      if (value === null) { before = null; continue; }
      path += `${before !== null && t - before < GAP_MS ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(1)}`;
      before = t; last = { t, value };
    }
    if (!last) continue;
    const group = svg("g", { class: role(release) }, svg("path", { d: path }));
    if (end - last.t < GAP_MS) group.append(svg("circle", { cx: x(last.t), cy: y(last.value), r: 3 }));
    picture.append(group);
    legend.push(el("span", { class: role(release) }, `${release} ${end - last.t < GAP_MS ? shown(last.value) : "-"}`));
  }
  return el("figure", {}, el("figcaption", {}, el("b", {}, title), ...(legend.length ? legend : [el("span", {}, "no requests yet")])), picture);
}
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value - 1e-12);
}

function drawHistory() {
  $("history").replaceChildren(...told.rows.slice().reverse().map((row) => {
    const moved = row.to_release ? ` ${short(row.from_release)} → ${short(row.to_release)}${row.kind === "advance" ? `, ${row.weight} %` : ""}` : "";
    return el("li", {}, el("span", { class: "rev" }, `#${row.rev}`),
      el("span", {}, el("span", { class: `kind ${row.kind}` }, row.kind), moved),
      el("span", { class: "why" }, `${ago(row.at)}, ${row.actor}: `, folded(row.reason)));
  }));
}

// changes: the person sees what will happen, says why, and the controller refuses if the log moved meanwhile
const ACTIONS = {
  rollback: () => running() ? ["Stop the rollout?", `${short(told.rollout.release)} loses its traffic and is not tried again. ${told.champion ? `${short(told.champion.release)} keeps serving.` : ""}`, "Stop it"]
    : ["Roll back?", `All traffic goes from ${short(told.champion.release)} to ${short(told.previous && told.previous.release)}. ${short(told.champion.release)} is remembered and not promoted again.`, "Roll back"],
  abort: () => ["Abort the rollout?", `${short(told.rollout.release)} loses its traffic and is not tried again; the champion keeps serving.`, "Abort"],
  freeze: () => ["Freeze promotions?", "Nothing is promoted until somebody unfreezes. Roll back and abort go on working.", "Freeze"],
  unfreeze: () => ["Unfreeze promotions?", "Rollouts may go on and new ones may start. A step that stood still is watched anew.", "Unfreeze"],
};
for (const name of Object.keys(ACTIONS)) $(name).addEventListener("click", () => open(name));

function open(name) {
  const [title, said, word] = ACTIONS[name]();
  pressing = { name, key: crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`, revision: told.revision };
  $("confirm-title").textContent = title; $("confirm-said").textContent = said; $("do").textContent = word;
  $("do").className = name === "rollback" || name === "abort" ? "danger" : "";
  $("reason").value = ""; $("actor").value = localStorage.getItem("actor") || "";
  $("token").value = ""; $("token-row").hidden = Boolean(store.token);
  refuse(""); $("confirm").showModal(); $("reason").focus();
}
function refuse(text) { $("confirm-error").textContent = text; $("confirm-error").hidden = !text; }
$("cancel").addEventListener("click", () => $("confirm").close());

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const reason = $("reason").value.trim(), actor = $("actor").value.trim();
  if ($("token").value) store.token = $("token").value.trim();
  if (!reason) return refuse("Say why: the next person reads it.");
  if (!actor) return refuse("Say who you are.");
  if (!store.token) { $("token-row").hidden = false; return refuse("Changes need the controller's token."); }
  localStorage.setItem("actor", actor);
  $("do").disabled = true;
  try {
    const body = JSON.stringify({ actor: `console:${actor}`, reason, idempotency_key: pressing.key, expected_revision: pressing.revision });
    const done = await ask(pressing.name, { method: "POST", body, patience: 90000 });
    $("confirm").close();
    await look().catch(() => {}); // the next poll says what is wrong
    succeed(pressing.name, done);
  } catch (err) {
    if (err.status === 401) { store.token = ""; $("token").value = ""; $("token-row").hidden = false; refuse("That token is not the controller's. Nothing was changed."); $("token").focus(); }
    else if (err.status === 403) { store.token = ""; $("token").value = ""; $("token-row").hidden = false; refuse(err.message); $("token").focus(); }
    else if (err.status === 409) await moved(err);
    else if (err.status === 0) refuse(`${err.message}; it may still happen. Press again: the same press counts once.`);
    else refuse(err.message);
  } finally { $("do").disabled = false; }
});
async function moved(err) {
  const key = pressing.key, name = pressing.name;
  await look().catch(() => {});
  if ($(name).disabled) return refuse(`${err.message} There is nothing left to do here.`);
  const [title, said] = ACTIONS[name]();
  $("confirm-title").textContent = title; $("confirm-said").textContent = said;
  pressing = { name, key: told.revision === pressing.revision ? key : `${key}-${told.revision}`, revision: told.revision };
  refuse(err.message);
}
function succeed(name, done) {
  const text = { rollback: () => done.changed ? `Rolled back from ${short(done.from)} to ${short(done.to)} in ${done.seconds.toFixed(2)} s.` : `Nothing to do: ${done.reason}`,
    abort: () => `Stopped: ${short(done.to)} serves all traffic.`, freeze: () => "Frozen: nothing is promoted.", unfreeze: () => "Promotions are allowed again." }[name]();
  $("said").textContent = text; $("said").hidden = false;
  setTimeout(() => { $("said").hidden = true; }, 15000);
}

// `freshrank console --role oncall` prints a link with the token behind the #, which browsers do not send
if (location.hash.startsWith("#token=")) {
  store.token = decodeURIComponent(location.hash.slice(7));
  history.replaceState(null, "", location.pathname);
}
poll();

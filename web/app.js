// The dashboard's behaviour: asks the hub each second, listens to its events, and draws what it says.
//
//   fetch each second ──▶ state ──▶ draw(): elements are kept by key and updated in place, so that focus, open
//   EventSource ─────▶ event list      explanations and flying ranks survive a redraw
//
// It never changes anything in the hub, keeps nothing in the browser, and puts text into the page only as text.
"use strict";

const POLL_MS = 1000, TIMEOUT_MS = 5000, STORE_POLL_MS = 4000, STREAMS_POLL_MS = 2000, TIERS_POLL_MS = 3000, RANKS_POLL_MS = 2000;
const EVENTS_MAX = 200, BUCKETS_MAX = 30, MIGRATIONS_SHOWN = 4, MIGRATIONS_ASKED = 50, RECOMMENDATIONS_SHOWN = 8, JOBS_SHOWN = 40, LANES_MAX = 16, MATRICES_SHOWN = 6, MATRIX_RANKS_MAX = 64;
const FLIGHT_MS = 1500, ARC_STAYS_MS = 6000;

const $ = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const hub = { sites: [], jobs: [], migrations: [], recommendations: [], store: [], tiers: [], streams: null };
let clockOff = 0;      // hub's clock minus ours, milliseconds
let answeredAt = 0;    // when the hub last answered, our clock
let polling = false, again = false, known = false;

// ---- Small helpers ----------------------------------------------------------------------------------------------------

const SVG = "http://www.w3.org/2000/svg";
function make(tag, attributes = {}, ...children) {
  const svg = /^(svg|g|path|line|rect|circle|text|animateMotion|title)$/.test(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
function text(element, value) { if (element.textContent !== value) element.textContent = value; }
function attribute(element, name, value) { if (element.getAttribute(name) !== value) element.setAttribute(name, value); }
// Keeps the children of `parent` equal to `items`, by key, in order; creates and removes only what changed.
function sync(parent, items, key, create, update) {
  const have = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = have.get(name);
    if (element) have.delete(name); else { element = create(item); element.dataset.key = name; }
    if (element === place) place = place.nextElementSibling; else parent.insertBefore(element, place);
    update(element, item);
  }
  for (const element of have.values()) element.remove();
}
function part(element, selector) { return element.querySelector(selector); }
function plural(count, one, many = one + "s") { return `${count} ${count === 1 ? one : many}`; }
function number(value, digits = 1) { return Number.isFinite(value) ? value.toFixed(digits) : "–"; }
function cores(value) { return Number.isInteger(value) ? String(value) : number(value, 1); }
function bytes(value) {
  if (!Number.isFinite(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
function duration(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000), hours = Math.floor(seconds / 3600);
  const rest = `${Math.floor(seconds / 60) % 60} min`;
  return hours ? `${hours} h ${rest}` : `${rest} ${seconds % 60} s`;
}
function clock(ms) { return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }); }
function now() { return Date.now() + clockOff; }
function tone(state) {
  return { ready: "good", late: "busy", succeeded: "good", done: "good", taken: "good", running: "busy", committed: "busy", proposed: "busy", pending: "", refused: "", cancelled: "", lost: "bad", failed: "bad" }[state] ?? "";
}
function badge(element, state) { text(element, state); attribute(element, "class", `badge ${tone(state)}`); }
// A site's hue: by the order in which sites were first seen.
const siteOrder = [], jobOrder = [];
function place(list, name) { let at = list.indexOf(name); if (at < 0) at = list.push(name) - 1; return at; }
function hue(site) { return `var(--site-${place(siteOrder, site) % 6})`; }
function jobHue(job) { return `var(--site-${(place(jobOrder, job) + 2) % 6})`; }
function tint(element, name, value) { if (element.style.getPropertyValue(name) !== value) element.style.setProperty(name, value); }
function siteLabel(site) { const swatch = make("i", { class: "swatch", "aria-hidden": "true" }); tint(swatch, "--site", hue(site)); return make("span", { class: "at" }, swatch, site); }

// ---- Asking the hub ---------------------------------------------------------------------------------------------------

class Locked extends Error {}
async function ask(path) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const answer = await fetch(path, { signal: abort.signal, headers: { Accept: "application/json" }, credentials: "same-origin", cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) throw new Locked();
    if (!answer.ok) {
      const body = await answer.json().catch(() => null);
      const error = new Error(`${path}: ${body?.error?.message ?? `status ${answer.status}`}`);
      error.answered = true;
      throw error;
    }
    return await answer.json();
  } finally { clearTimeout(timer); }
}

async function poll() {
  if (polling) { again = true; return; }
  polling = true;
  const parts = ["sites", "jobs", "migrations", "recommendations"];
  // What has not ended comes always; of the rest, as many as are shown.
  const asked = ["sites", `jobs?limit=${JOBS_SHOWN}`, `migrations?limit=${MIGRATIONS_ASKED}`, "recommendations"];
  const answers = await Promise.allSettled(asked.map((name) => ask(`/v1/${name}`)));
  const failures = answers.filter((answer) => answer.status === "rejected").map((answer) => answer.reason);
  answers.forEach((answer, i) => { if (answer.status === "fulfilled" && Array.isArray(answer.value)) hub[parts[i]] = answer.value; });
  if (failures.some((error) => error instanceof Locked)) locked();
  else if (failures.length && !failures.some((error) => error.answered) && failures.length === parts.length) lost();
  else live(failures);
  polling = false;
  if (again) { again = false; setTimeout(poll, 60); }
}

async function pollStore() {
  try {
    const names = (await ask("/v1/buckets")).slice(0, BUCKETS_MAX);
    const buckets = await Promise.all(names.map(async (name) => ({ name, objects: await ask(`/v1/objects/${encodeURIComponent(name)}`) })));
    hub.store = buckets.filter((bucket) => bucket.objects.length);
    drawStore();
  } catch { /* poll() reports a hub that does not answer; the last summary stays. */ }
}

async function pollStreams() {
  try { hub.streams = await ask("/v1/streams"); } catch (error) { if (error.answered) hub.streams = { streams: [], stopped: error.message }; else return; }
  drawStreams();
}

async function pollRanks() {
  try { drawMatrices(await ask("/v1/ranks")); } catch { /* poll() reports a hub that does not answer; the last picture stays. */ }
}

async function pollTiers() {
  try { hub.tiers = await ask("/v1/tiers"); } catch { return; /* poll() reports a hub that does not answer; the last figures stay. */ }
  drawTiers();
}

function live(failures) {
  answeredAt = Date.now();
  const latest = Math.max(0, ...hub.sites.map((site) => site.last_seen_ms ?? 0));
  // Only a clock that is clearly different counts: a site's last report is always a little old.
  clockOff = latest && Math.abs(latest - Date.now()) > 5000 && hub.sites.some((site) => site.state === "ready") ? latest - Date.now() : 0;
  const first = !known;
  known = true;
  state("live", "live");
  notice(failures.length ? ["Part of the hub's answer is missing.", failures.map((error) => error.message).join("; ")] : null);
  draw();
  if (first) {
    document.body.dataset.ready = "true";
    pollStore();
    pollStreams();
    pollTiers();
    listen();
  }
}
function lost() {
  state("lost", "hub does not answer");
  const since = answeredAt ? `What you see is ${duration(Date.now() - answeredAt)} old. ` : "";
  notice(["The hub does not answer.", `${since}This page asks again each second. On the hub's machine, `, make("code", {}, "cloudskin up"), " starts it, and its log says why it stopped."]);
}
function locked() {
  state("locked", "no access");
  notice(["This page needs the hub's token.", "Open the address that ", make("code", {}, "cloudskin up"), " printed: it ends in ", make("code", {}, "/?token=…"), " and lets this browser in."]);
}
function state(name, words) {
  document.body.dataset.state = name;
  attribute($("link"), "data-link", name === "live" ? "live" : "lost");
  text($("link-text"), words);
}
let noticed = "";
function notice(parts) {
  const box = $("notice");
  box.hidden = !parts;
  if (!parts) { noticed = ""; return; }
  const [title, ...rest] = parts;
  const words = rest.map((piece) => piece.textContent ?? piece).join("");
  if (noticed === title + words) return;
  // What only counts up must not be read aloud each second.
  if (noticed.startsWith(title)) { part(box, "span").replaceChildren(...rest); noticed = title + words; attribute(box, "aria-live", "off"); return; }
  noticed = title + words;
  box.removeAttribute("aria-live");
  box.replaceChildren(make("strong", {}, title), make("span", {}, ...rest));
}

// ---- Sites and their ranks --------------------------------------------------------------------------------------------

function draw() {
  const running = hub.jobs.filter((job) => job.state === "running" || job.state === "pending");
  const ranks = running.reduce((sum, job) => sum + (job.ranks?.length ?? 0), 0);
  text($("summary"), [plural(hub.sites.length, "site"), `${plural(running.length, "job")} running`, plural(ranks, "rank"), plural(Math.max(0, ...hub.migrations.map((m) => m.id)), "migration")].join("  ·  "));
  hub.sites.forEach((site) => place(siteOrder, site.name));
  [...hub.jobs].sort((a, b) => a.created_ms - b.created_ms).forEach((job) => place(jobOrder, job.id));
  drawSites();
  drawRanks(running);
  drawArcs();
  drawMigrations();
  drawJobs();
  drawRecommendations();
}
function none(name, empty) { $(`${name}-none`).hidden = !empty; }

function drawSites() {
  none("sites", hub.sites.length === 0);
  sync($("sites"), hub.sites, (site) => site.name, (site) => {
    const figure = (name) => make("div", { class: `figure ${name}` }, make("dt", {}, make("span"), make("b")), make("dd", { class: "bar", "aria-hidden": "true" }, make("i")));
    const card = make("article", { class: "site", "data-site": site.name, "aria-label": `site ${site.name}` },
      make("header", { class: "site-head" }, make("h3", {}, site.name), make("span", { class: "badge" }), make("span", { class: "about" })),
      make("div", { class: "ranks", role: "list", "aria-label": `ranks at ${site.name}` }),
      make("div", {}, make("svg", { class: "chart", role: "img" }), make("p", { class: "caption" })),
      make("dl", { class: "figures" }, figure("cpu"), figure("memory")));
    tint(card, "--site", hue(site.name));
    return card;
  }, (card, site) => {
    attribute(card, "data-state", site.state);
    badge(part(card, ".badge"), site.state);
    const about = [site.affinity || plural(site.cores, "core"), `${site.ranks} of ${site.slots} slots`];
    if (site.state !== "ready" && site.last_seen_ms) about.push(`last seen ${duration(now() - site.last_seen_ms)} ago`);
    const aboutBox = part(card, ".about");
    text(aboutBox, about.join(" · "));
    attribute(aboutBox, "title", site.address ?? "");
    figure(part(card, ".cpu"), "CPU busy", `${number(site.cpu_used)} of ${cores(site.cores)}`, site.cpu_used / site.cores);
    figure(part(card, ".memory"), "Memory", `${bytes(site.memory_used_bytes)} of ${bytes(site.memory_bytes)}`, site.memory_used_bytes / site.memory_bytes);
    drawChart(card, site);
  });
}
function figure(box, name, value, filled) {
  text(part(box, "dt span"), name);
  text(part(box, "dt b"), value);
  part(box, ".bar i").style.width = `${Math.round(1000 * Math.min(1, Math.max(0, filled || 0))) / 10}%`;
}

// Demand per core over time, the forecast to the right of "now" with its interval as a fan. Dashed: all cores taken.
function drawChart(card, site) {
  const svg = part(card, ".chart"), caption = part(card, ".caption");
  const history = (site.history ?? []).filter((point) => Number.isFinite(point[1]));
  const forecast = site.state === "ready" ? site.forecast : null;
  const width = Math.max(200, svg.clientWidth || 400), height = 104, left = 26, right = 6, top = 8, bottom = 15;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  if (history.length < 2) {
    svg.replaceChildren(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "waiting for telemetry"));
    attribute(svg, "aria-label", "no telemetry yet");
    text(caption, "");
    return;
  }
  const [firstMs] = history[0], [lastMs, last] = history.at(-1);
  const aheadMs = forecast ? Math.max(forecast.horizon_ms ?? 0, forecast.at_ms - lastMs, 5000) : 0;
  const spanMs = Math.max(30_000, lastMs - firstMs);
  // The forecast gets a tenth of the width at least, or nobody would see it; its part of the axis may be stretched.
  const nowX = forecast ? width - right - Math.max(0.14 * width, ((width - left - right) * aheadMs) / (spanMs + aheadMs)) : width - right;
  const highest = Math.max(1.25, ...history.map((point) => point[1]), forecast?.high ?? 0) * 1.08;
  const x = (ms) => left + (nowX - left) * (1 - (lastMs - ms) / spanMs), y = (value) => top + (height - top - bottom) * (1 - value / highest);
  const line = history.map((point, i) => `${i ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
  const endX = width - right, one = y(1);
  const marks = highest > 2.4 ? [0, Math.floor(highest)] : [0];
  const roomy = y(0) - one > 11; // else the 0 would lie on the 1
  svg.replaceChildren(...[
    ...marks.flatMap((mark) => [make("line", { class: "grid", x1: left, x2: endX, y1: y(mark), y2: y(mark) }), mark || roomy ? make("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, String(mark)) : null]),
    make("line", { class: "full", x1: left, x2: endX, y1: one, y2: one }), make("text", { x: left - 6, y: one + 4, "text-anchor": "end" }, "1"),
    make("path", { class: "area", d: `${line}L${x(lastMs)} ${y(0)}L${x(firstMs)} ${y(0)}Z` }), make("path", { class: "line", d: line }),
    nowX - x(firstMs) > 110 ? make("text", { x: Math.max(left, x(firstMs)), y: height - 2 }, `${duration(lastMs - firstMs)} ago`) : null, // else it would lie on "now"
    make("text", { x: nowX, y: height - 2, "text-anchor": forecast ? "middle" : "end" }, "now"),
    ...(forecast ? [
      make("path", { class: "fan", d: `M${nowX} ${y(last)}L${endX} ${y(forecast.high)}L${endX} ${y(forecast.low)}Z` }),
      make("path", { class: "ahead", d: `M${nowX} ${y(last)}L${endX} ${y(forecast.value)}` }),
      make("circle", { class: "point", cx: endX, cy: y(forecast.value), r: 3.5 }),
    ] : []),
  ].filter(Boolean));
  const forecastWords = forecast ? `forecast ${number(forecast.value)}, ${number(forecast.low)} to ${number(forecast.high)}` : "no forecast";
  attribute(svg, "aria-label", `demand per core over ${duration(lastMs - firstMs)}: now ${number(last)}; ${forecastWords}`);
  if (part(caption, "b") === null) caption.replaceChildren(make("span", {}, "Demand per core "), make("b"), make("span", { class: "ahead-words" }));
  text(part(caption, "b"), number(last));
  text(part(caption, ".ahead-words"), ` · ${forecastWords}${forecast?.model ? ` (${shortModel(forecast.model)})` : ""}`);
  attribute(caption, "title", forecast?.model ?? "");
}
function shortModel(model) { return model.replace(/ \(.*$/s, ""); }

const tiles = new Map(); // "job-1/0" → element
function drawRanks(jobs) {
  const zones = new Map([...document.querySelectorAll(".site")].map((card) => [card.dataset.site, part(card, ".ranks")]));
  const leaving = new Set(hub.migrations.filter((m) => m.state === "running" || m.state === "committed").flatMap((m) => (m.ranks ?? []).map((rank) => `${m.job}/${rank}@${m.from}`)));
  const wanted = new Map();
  for (const job of jobs) for (const rank of job.ranks ?? []) if (zones.has(rank.site)) wanted.set(`${job.id}/${rank.rank}`, { job, rank });
  for (const [key, tile] of tiles) if (!wanted.has(key)) { tile.remove(); tiles.delete(key); }

  // All old places are measured before the first tile is put elsewhere.
  const movers = [];
  for (const [key, { rank }] of wanted) {
    const tile = tiles.get(key);
    if (tile && tile.dataset.at !== rank.site) movers.push({ tile, from: tile.getBoundingClientRect(), rank: rank.rank });
  }
  for (const [key, { job, rank }] of wanted) {
    let tile = tiles.get(key);
    if (!tile) {
      tile = make("div", { class: "rank", role: "listitem", "data-rank": key }, make("span", { class: "of" }), make("span", { class: "no" }), make("span", { class: "load", "aria-hidden": "true" }, make("i")));
      tint(tile, "--job", jobHue(job.id));
      tiles.set(key, tile);
    }
    text(part(tile, ".of"), job.id);
    text(part(tile, ".no"), `rank ${rank.rank}`);
    part(tile, ".load i").style.width = `${Math.round(100 * Math.min(1, rank.cpu_used || 0))}%`;
    attribute(tile, "title", [`${job.name ?? job.id}, rank ${rank.rank} of ${job.np}`, rank.doing ? `${rank.state}: ${rank.doing}` : rank.state, `${bytes(rank.memory_bytes)} memory, ${number(rank.cpu_used, 2)} cores`, `${rank.sent ?? 0} messages sent, ${rank.received ?? 0} received`, `place epoch ${rank.epoch}${job.pinned ? ", pinned" : ""}`].join("\n"));
    attribute(tile, "aria-label", `${job.id} rank ${rank.rank}, ${rank.doing || rank.state}`);
    attribute(tile, "data-at", rank.site);
    tile.classList.toggle("leaving", leaving.has(`${key}@${rank.site}`));
    const zone = zones.get(rank.site);
    if (tile.parentElement !== zone) {
      const order = (element) => { const [id, no] = element.dataset.rank.split("/"); return place(jobOrder, id) * 1e5 + Number(no); };
      zone.insertBefore(tile, [...zone.children].find((other) => order(other) > order(tile)) ?? null);
    }
  }
  movers.forEach(({ tile, from }, i) => fly(tile, from, i));
}

// From where it was to where it is, along an arc, one shortly after the other.
function fly(tile, from, index) {
  tile.classList.add("arrived");
  setTimeout(() => tile.classList.remove("arrived"), FLIGHT_MS + 2500);
  if (still.matches || !tile.animate) return;
  const to = tile.getBoundingClientRect();
  const dx = from.left - to.left, dy = from.top - to.top;
  const sideways = Math.abs(dx) < Math.abs(dy); // stacked cards: bow to the side
  const bow = Math.min(150, 50 + Math.hypot(dx, dy) / 5);
  const room = Math.max(0, Math.min(90, innerWidth - 10 - Math.max(from.right, to.right) * 1.02));
  const frames = Array.from({ length: 25 }, (_, k) => {
    const t = k / 24, left = 1 - t, lift = 4 * t * left * bow;
    const [liftX, liftY] = sideways ? [4 * t * left * room, 0] : [0, -lift];
    return { transform: `translate(${dx * left + liftX}px, ${dy * left + liftY}px) scale(${1 + 0.16 * 4 * t * left})` };
  });
  tile.classList.add("flying");
  const flight = tile.animate(frames, { duration: FLIGHT_MS, delay: index * 110, easing: "cubic-bezier(.45,.05,.35,1)", fill: "backwards" });
  const landed = () => tile.classList.remove("flying");
  flight.finished.then(landed, landed);
}

// ---- Arcs and migrations ----------------------------------------------------------------------------------------------

const arcs = new Map(); // migration id → group
function drawArcs() {
  const at = now();
  // Of a job's moves only the last, or their arcs would lie on each other.
  const last = [...new Map(hub.migrations.map((m) => [m.job, m])).values()];
  const shown = last.filter((m) => m.state === "running" || m.state === "committed" || (m.state === "done" && m.ended_ms && at - m.ended_ms < ARC_STAYS_MS));
  const layer = $("arcs"), frame = $("stage").getBoundingClientRect();
  for (const [id, group] of arcs) {
    if (shown.some((m) => m.id === id)) continue;
    group.classList.add("gone");
    setTimeout(() => group.remove(), last.some((m) => m.id === id) ? 900 : 0);
    arcs.delete(id);
  }
  for (const migration of shown) {
    const ends = [migration.from, migration.to].map((name) => [...document.querySelectorAll(".site")].find((card) => card.dataset.site === name));
    if (!ends[0] || !ends[1]) continue;
    // Side by side: over the cards' upper edges, where nothing is written. Stacked: down their right margins.
    const [a, b] = ends.map((card) => card.getBoundingClientRect());
    const stacked = Math.abs(a.left - b.left) < 40;
    const way = b.left > a.left ? 1 : -1, down = b.top > a.top ? 1 : -1;
    const p = stacked ? [a.right - 8, (a.top + a.bottom) / 2 - 40 * down] : [(way > 0 ? a.right : a.left) - 110 * way, a.top + 2];
    const q = stacked ? [b.right - 8, (b.top + b.bottom) / 2 - 70 * down] : [(way > 0 ? b.left : b.right) + 110 * way, b.top - 1];
    const c = stacked ? [Math.min(a.right + 22, innerWidth + 4), (p[1] + q[1]) / 2] : [(p[0] + q[0]) / 2, Math.min(p[1], q[1]) - 66];
    const [px, py, qx, qy, cx, cy] = [p, q, c].flatMap(([x, y]) => [x - frame.left, y - frame.top]).map((value) => Math.round(value * 10) / 10);
    const d = `M${px} ${py}Q${cx} ${cy} ${qx} ${qy}`;
    let group = arcs.get(migration.id);
    if (!group) {
      const pages = [0, 0.33, 0.66].map((begin) => make("circle", { class: "page", r: 4.5 }, make("animateMotion", { dur: "1.2s", begin: `-${begin * 1.2}s`, repeatCount: "indefinite", path: d })));
      group = make("g", {}, make("path", { class: "track" }), ...(still.matches ? [] : pages), make("path", { class: "head" }), make("rect", { rx: 11, height: 22 }), make("text"));
      tint(group, "--to", hue(migration.to));
      arcs.set(migration.id, group);
      layer.append(group);
    }
    group.classList.toggle("settled", migration.state === "done");
    attribute(part(group, ".track"), "d", d);
    group.querySelectorAll("animateMotion").forEach((motion) => attribute(motion, "path", d));
    const angle = Math.atan2(qy - cy, qx - cx);
    const tip = (turn, length) => `${(qx - length * Math.cos(angle + turn)).toFixed(1)} ${(qy - length * Math.sin(angle + turn)).toFixed(1)}`;
    attribute(part(group, ".head"), "d", `M${qx} ${qy}L${tip(0.45, 13)}L${tip(-0.45, 13)}Z`);
    const words = migration.state === "done" ? `moved · ${duration(migration.downtime_ms)} down` : `${migration.job} is moving`;
    const label = part(group, "text"), box = part(group, "rect");
    text(label, words);
    const wide = Math.round(label.getComputedTextLength?.() || words.length * 7.4) + 24;
    const between = (down > 0 ? a.bottom + b.top : a.top + b.bottom) / 2 - frame.top;
    const mx = Math.min((px + 2 * cx + qx) / 4, frame.width - wide / 2), my = stacked ? between : (py + 2 * cy + qy) / 4;
    attribute(label, "x", String(mx)); attribute(label, "y", String(my));
    attribute(box, "x", String(mx - wide / 2)); attribute(box, "y", String(my - 11)); attribute(box, "width", String(wide));
  }
}
addEventListener("resize", () => { drawArcs(); hub.sites.forEach((site) => { const card = [...document.querySelectorAll(".site")].find((c) => c.dataset.site === site.name); if (card) drawChart(card, site); }); });

function drawMigrations() {
  const shown = [...hub.migrations].sort((a, b) => b.id - a.id).slice(0, MIGRATIONS_SHOWN);
  none("migrations", shown.length === 0);
  sync($("migrations"), shown, (m) => m.id, (migration) => {
    const cell = (name, words) => make("dl", { class: name }, make("dt", {}, words), make("dd"));
    const strip = make("li", { class: "strip", "data-migration": migration.id },
      make("div", { class: "route" }, make("span", { class: "name" }), make("span", { class: "small" }, siteLabel(migration.from), " → ", siteLabel(migration.to)), make("span", { class: "badge" }), make("span", { class: "soft small by" })),
      cell("big down", "downtime"), cell("big sent", "bytes moved"), cell("stopped", "of them while stopped"), cell("total", "in all"),
      make("div", { class: "share" }, make("div", { class: "soft small share-words" }), make("div", { class: "split", "aria-hidden": "true" }, make("i"), make("i"))),
      make("p", { class: "wrong", hidden: "" }));
    tint(strip, "--to", hue(migration.to));
    return strip;
  }, (strip, m) => {
    attribute(strip, "data-state", m.state);
    text(part(strip, ".name"), m.job);
    badge(part(strip, ".badge"), m.state);
    text(part(strip, ".by"), `migration ${m.id} · ${plural((m.ranks ?? []).length, "rank")} · ${m.recommendation ? `recommendation ${m.recommendation}` : "asked for"}`);
    const over = m.state === "done", moved = m.moved_bytes ?? 0, stopped = m.moved_stopped_bytes ?? 0;
    text(part(strip, ".down dd"), over ? duration(m.downtime_ms) : "–");
    text(part(strip, ".sent dd"), moved ? bytes(moved) : "–");
    text(part(strip, ".stopped dd"), over ? bytes(stopped) : "–");
    text(part(strip, ".total dd"), `${over || m.total_ms ? duration(m.total_ms) : duration(Math.max(0, (m.ended_ms ?? now()) - m.started_ms))}${m.rounds ? `, ${plural(m.rounds, "round")}` : ""}`);
    const live = moved > 0 ? Math.max(0, moved - stopped) / moved : 0;
    text(part(strip, ".share-words"), over && moved ? `${Math.round(live * 100)} % was sent while it ran` : "");
    const [running, halted] = strip.querySelectorAll(".split i");
    part(strip, ".split").hidden = !(over && moved);
    running.style.width = `${live * 100}%`; halted.style.width = `${(1 - live) * 100}%`;
    const wrong = part(strip, ".wrong");
    wrong.hidden = m.state !== "failed";
    text(wrong, m.reason ?? "");
  });
}

// ---- Jobs -------------------------------------------------------------------------------------------------------------

function drawJobs() {
  const shown = [...hub.jobs].sort((a, b) => b.created_ms - a.created_ms).slice(0, JOBS_SHOWN);
  none("jobs", shown.length === 0);
  $("jobs-table").hidden = shown.length === 0;
  sync($("jobs"), shown, (job) => job.id, (job) => make("tr", { role: "row", "data-job": job.id },
    make("th", { scope: "row", role: "rowheader" }, make("div", { class: "name" }), make("div", { class: "soft small what" })),
    make("td", { role: "cell" }, make("span", { class: "badge" }), make("div", { class: "reason" }), make("details", { class: "trace" }, make("summary", {}, "Where in the program"), make("pre", { tabindex: "0" }))),
    make("td", { role: "cell", class: "np" }), make("td", { role: "cell", class: "time" }),
    make("td", { role: "cell", class: "wide" }, make("svg", { class: "gantt", role: "img" }))), (row, job) => {
    attribute(row, "data-state", job.state);
    text(part(row, ".name"), job.id);
    text(part(row, ".what"), [job.name, job.tenant && job.tenant !== "default" ? `tenant ${job.tenant}` : null, job.pinned ? "pinned" : null].filter(Boolean).join(" · "));
    badge(part(row, ".badge"), job.state);
    const reason = part(row, ".reason");
    text(reason, [job.reason, job.exit_code ? `exit code ${job.exit_code}` : null, job.restarts ? plural(job.restarts, "restart") : null].filter(Boolean).join(" · "));
    reason.classList.toggle("bad", job.state === "failed");
    part(row, ".trace").hidden = !job.backtrace;
    text(part(row, ".trace pre"), job.backtrace);
    text(part(row, ".np"), plural(job.np, "rank"));
    text(part(row, ".time"), job.started_ms ? duration(Math.max(0, (job.ended_ms ?? now()) - job.started_ms)) : "waits");
    drawGantt(part(row, ".gantt"), job);
  });
}

function drawGantt(svg, job) {
  const stays = (job.placements ?? []).filter((stay) => stay.rank < LANES_MAX);
  const width = Math.max(180, svg.clientWidth || 480), left = 18, lanes = Math.max(1, Math.min(job.np, LANES_MAX));
  const lane = lanes > 8 ? 8 : 12, gap = 3, height = lanes * (lane + gap) + 14;
  attribute(svg, "viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  const begin = Math.min(job.started_ms ?? Infinity, ...stays.map((stay) => stay.from_ms));
  if (!Number.isFinite(begin)) { svg.replaceChildren(make("text", { x: left, y: 14 }, "not placed yet")); attribute(svg, "aria-label", "not placed yet"); return; }
  const end = Math.max(begin + 1000, job.ended_ms ?? now());
  const x = (ms) => left + ((width - left) * (Math.min(end, ms) - begin)) / (end - begin);
  const pieces = [];
  for (let rank = 0; rank < lanes; rank += 1) {
    const y = rank * (lane + gap);
    pieces.push(make("text", { x: left - 6, y: y + lane - 2, "text-anchor": "end" }, String(rank)), make("rect", { class: "lane", x: left, y, width: width - left, height: lane, rx: 3 }));
  }
  for (const stay of stays) {
    const y = stay.rank * (lane + gap), from = x(stay.from_ms), wide = Math.max(2, x(stay.to_ms ?? end) - from - 1);
    const bar = make("rect", { class: "stay", x: from, y, width: wide, height: lane, rx: 3 }, make("title", {}, `rank ${stay.rank} at ${stay.site}, ${duration((stay.to_ms ?? end) - stay.from_ms)}`));
    tint(bar, "--site", hue(stay.site));
    pieces.push(bar);
    if (lane >= 12 && wide > stay.site.length * 6.5 + 10) pieces.push(make("text", { class: "inside", x: from + 6, y: y + lane - 2.5 }, stay.site));
  }
  pieces.push(make("text", { x: left, y: height - 2 }, clock(begin)), make("text", { x: width, y: height - 2, "text-anchor": "end" }, job.ended_ms ? clock(end) : "now"));
  svg.replaceChildren(...pieces);
  const told = stays.filter((stay) => stay.rank === 0).map((stay) => `${stay.site} for ${duration((stay.to_ms ?? end) - stay.from_ms)}`).join(", then ");
  attribute(svg, "aria-label", `rank 0 was at ${told || "no site"}; ${plural(job.np, "rank")} in all`);
}

// ---- Messages between ranks -------------------------------------------------------------------------------------------

// Who has sent to whom, for each job of several ranks that runs: a row for each sender, a column for each receiver, darker for more bytes. Logarithmic: a program's
// halos are to be seen beside what it gathers once.
function drawMatrices(loads) {
  const jobs = new Map();
  for (const load of loads) if (load.np > 1 && load.np <= MATRIX_RANKS_MAX) jobs.set(load.job, [...(jobs.get(load.job) ?? []), load]);
  const shown = [...jobs].filter(([, ranks]) => ranks.some((rank) => rank.peers.some((peer) => peer.sent))).slice(0, MATRICES_SHOWN);
  $("messages-section").hidden = shown.length === 0;
  sync($("matrices"), shown, ([job]) => job, ([job]) => {
    const figure = make("figure", { class: "matrix", "data-job": job }, make("svg", { role: "img" }), make("figcaption", {}, make("span", { class: "name" }), make("span", { class: "soft small told" })));
    place(jobOrder, job);
    tint(figure, "--job", jobHue(job));
    return figure;
  }, (figure, [job, ranks]) => {
    const { np, name } = ranks[0], side = Math.max(4, Math.min(26, Math.floor(288 / np))), left = 22, top = 16, end = side * np;
    const pairs = ranks.flatMap((rank) => rank.peers.filter((peer) => peer.sent).map((peer) => ({ from: rank.rank, to: peer.rank, count: peer.sent, bytes: peer.sent_bytes })));
    const most = pairs.reduce((a, b) => (b.bytes > a.bytes ? b : a));
    const strength = (value) => 0.15 + 0.85 * (Math.log1p(value) / Math.max(1, Math.log1p(most.bytes)));
    const every = Math.max(1, Math.ceil(16 / side)), labels = Array.from({ length: Math.ceil(np / every) }, (_, i) => i * every);
    const svg = part(figure, "svg");
    attribute(svg, "viewBox", `0 0 ${left + end} ${top + end}`);
    svg.style.width = `${left + end}px`;
    svg.replaceChildren(make("rect", { class: "ground", x: left, y: top, width: end, height: end }),
      ...labels.flatMap((rank) => [make("text", { x: left - 4, y: top + rank * side + side / 2 + 4, "text-anchor": "end" }, String(rank)), make("text", { x: left + rank * side + side / 2, y: top - 4, "text-anchor": "middle" }, String(rank))]),
      ...pairs.map((pair) => make("rect", { class: "pair", x: left + pair.to * side, y: top + pair.from * side, width: side - 1, height: side - 1, "fill-opacity": strength(pair.bytes).toFixed(2) },
        make("title", {}, `rank ${pair.from} to rank ${pair.to}: ${bytes(pair.bytes)} in ${plural(pair.count, "message")}`))));
    const all = pairs.reduce((sum, pair) => sum + pair.bytes, 0);
    const told = `${bytes(all)} between ${plural(pairs.length, "pair")}; most from rank ${most.from} to rank ${most.to}, ${bytes(most.bytes)}`;
    text(part(figure, ".name"), `${job}${name && name !== job ? ` · ${name}` : ""}`);
    text(part(figure, ".told"), `Senders in rows, receivers in columns, darker for more. Since the job began ${told}.`);
    attribute(svg, "aria-label", `${job}, who sends to whom: ${told}`);
  });
}

// ---- Streams ----------------------------------------------------------------------------------------------------------

function watchButton(name) {
  const button = make("button", { class: "watch", type: "button", "aria-label": `Watch ${name}`, "aria-haspopup": "dialog" }, "Watch");
  button.onclick = () => {
    text($("player-name"), name);
    $("player-page").src = `/v1/video/${name.split("/").map(encodeURIComponent).join("/")}/`;
    $("player").showModal();
  };
  return button;
}
// A player that nobody sees loads nothing more.
$("player").onclose = () => $("player-page").removeAttribute("src");

// A stream's key space: each segment as wide as its part of the keys, and the more filled the more of the stream's events it gets.
function drawKeys(keys, written) {
  keys.hidden = written.length < 2;
  const busiest = Math.max(...written.map((segment) => segment.events_per_second), 1e-9);
  sync(keys, written, (segment) => segment.segment, () => make("li", {}), (one, segment) => {
    const rate = `${number(segment.events_per_second, segment.events_per_second < 10 ? 1 : 0)}/s`;
    tint(one, "flex-grow", String(segment.high - segment.low));
    tint(one, "--load", (segment.events_per_second / busiest).toFixed(2));
    text(one, rate);
    const words = `segment ${segment.segment}, keys from ${number(segment.low, 3)} to ${number(segment.high, 3)}: ${rate}, ${bytes(segment.bytes)}`;
    attribute(one, "aria-label", words);
    attribute(one, "title", words);
  });
}

function drawStreams() {
  const told = hub.streams;
  $("streams-section").hidden = !told;
  if (!told) return;
  none("streams", told.streams.length === 0);
  $("streams-table").hidden = told.streams.length === 0;
  sync($("streams"), told.streams, (stream) => stream.stream, (stream) => make("tr", { role: "row", "data-stream": stream.stream }, make("th", { scope: "row", role: "rowheader" }, stream.stream, " ", watchButton(stream.stream), make("ul", { class: "keys", "aria-label": `Segments of ${stream.stream}` })), ...["segments", "rate", "size", "log"].map((name) => make("td", { role: "cell", class: `number ${name}` }))), (row, stream) => {
    part(row, ".watch").hidden = !stream.video;
    drawKeys(part(row, ".keys"), stream.written ?? []);
    text(part(row, ".segments"), stream.sealed ? "sealed" : String(stream.segments));
    text(part(row, ".rate"), number(stream.events_per_second, stream.events_per_second < 10 ? 1 : 0));
    text(part(row, ".size"), bytes(stream.bytes));
    text(part(row, ".log"), bytes(stream.log_bytes));
  });
  const away = Boolean(told.stopped || told.long_term?.away);
  attribute($("streams-tiers"), "data-away", String(away));
  const words = [];
  if (told.stopped) words.push(told.stopped);
  else {
    if (told.long_term) words.push(told.long_term.away ? `Long-term storage takes nothing: ${told.long_term.away_because}` : `${bytes(told.long_term.flushed_bytes)} went to long-term storage`);
    if (told.long_term?.overflow_bytes) words.push(`${bytes(told.long_term.overflow_bytes)} of ${bytes(told.long_term.overflow_max_bytes)} are in the overflow`);
    if (told.waits_for) words.push(`writers wait: ${told.waits_for}`);
    if (told.long_term?.damaged_parts) words.push(`${told.long_term.damaged_parts} damaged parts can't be read; /v1/streams says which`);
    words.push(`${bytes(told.backlog_bytes)} of ${bytes(told.backlog_max_bytes)} wait for long-term storage`);
    if (!told.waits_for && told.outage_left_seconds !== null && told.outage_left_seconds < 7 * 86400) words.push(`${told.long_term?.away ? "writers wait in" : "an outage could last"} ${duration(told.outage_left_seconds * 1000)} at this rate`);
    if (told.write_p99_ms !== null) words.push(`an event is durable within ${number(told.write_p50_ms, 1)} ms (p50), ${number(told.write_p99_ms, 1)} ms (p99)`);
  }
  text($("streams-tiers"), words.join("  ·  "));
}

// ---- The object store's tiers, by site -----------------------------------------------------------------------------------

function drawTiers() {
  none("tiers", hub.tiers.length === 0);
  $("tiers-table").hidden = hub.tiers.length === 0;
  sync($("tiers"), hub.tiers, (at) => at.site, (at) => {
    const cell = (name, ...children) => make("td", { role: "cell", class: name }, ...children);
    // What the heading says stands beside the figure where the row is a block.
    const level = (name, words) => cell(name, make("span", { class: "of soft small", "aria-hidden": "true" }, words), make("span", { class: "level" }), make("div", { class: "bar", "aria-hidden": "true" }, make("i")));
    const counts = (name, words) => cell(`number ${name}`, make("span", { class: "of soft small", "aria-hidden": "true" }, words), make("span", { class: "count" }), make("div", { class: "soft small more" }));
    const row = make("tr", { role: "row", "data-tiers": at.site }, make("th", { scope: "row", role: "rowheader" }, siteLabel(at.site)),
      level("disk", "Disk"), level("memory", "Memory"), counts("objects", "Objects"), counts("opens", "Opens"), counts("queue", "Wait for upload"),
      cell("persistency", make("span", { class: "of soft small", "aria-hidden": "true" }, "Persistency tier"), make("span", { class: "badge" }), make("div", { class: "soft small more" })));
    tint(row, "--site", hue(at.site));
    return row;
  }, (row, { tiers: has, reason }) => {
    const filled = (name, used, limit) => {
      const cell = part(row, `.${name}`);
      text(part(cell, ".level"), !has ? "–" : limit ? `${bytes(used)} of ${bytes(limit)}` : "none");
      part(cell, ".bar").hidden = !has || !limit;
      part(cell, ".bar i").style.width = has && limit ? `${Math.round(1000 * Math.min(1, used / limit)) / 10}%` : "0";
    };
    const counted = (name, value, more) => { text(part(row, `.${name} .count`), has ? String(value) : "–"); text(part(row, `.${name} .more`), has ? more : ""); };
    filled("disk", has?.disk_used_bytes, has?.disk_limit_bytes);
    filled("memory", has?.memory_used_bytes, has?.memory_limit_bytes);
    counted("objects", has?.objects, has?.attached ? `${plural(has.attached, "program")} attached` : "");
    const opens = (has?.opened_here ?? 0) + (has?.fetched ?? 0);
    counted("opens", opens, opens ? `${number((100 * has.opened_here) / opens, 0)} % here, ${has.fetched} fetched` : "");
    counted("queue", has?.queued, has?.waited ? `${plural(has.waited, "write")} waited for room${has.refused ? `, ${has.refused} refused` : ""}` : "");
    const mark = part(row, ".persistency .badge");
    text(mark, has ? { none: "none", works: "works", fails: "fails" }[has.persistency] : "no answer");
    attribute(mark, "class", `badge ${!has || has.persistency === "fails" ? "bad" : has.persistency === "works" ? "good" : ""}`);
    const went = has?.uploaded ? `${plural(has.uploaded, "object")} uploaded (${bytes(has.uploaded_bytes)}), ${has.spilled} left the site` : has?.persistency === "fails" ? "tried again after a pause; nothing is freed meanwhile" : "";
    text(part(row, ".persistency .more"), has ? went : reason);
  });
}

// ---- Recommendations, store, events -----------------------------------------------------------------------------------

function drawRecommendations() {
  const shown = [...hub.recommendations].sort((a, b) => b.id - a.id).slice(0, RECOMMENDATIONS_SHOWN);
  none("recommendations", shown.length === 0);
  sync($("recommendations"), shown, (r) => r.id, (r) => make("details", { class: "recommendation", "data-recommendation": r.id },
    make("summary", {}, make("div", { class: "row" }, make("span", { class: "name" }), make("span", {}, siteLabel(r.from), " → ", siteLabel(r.to)), make("span", { class: "badge" }), make("span", { class: "when" })), make("p", { class: "why" })),
    make("div", { class: "detail" }, make("pre", { class: "explanation" }), make("p", { class: "small soft model" }),
      make("details", { class: "raw" }, make("summary", {}, "What the decision was made of"), make("pre", { tabindex: "0" })))), (box, r) => {
    attribute(box, "data-state", r.state);
    text(part(box, ".name"), r.job);
    badge(part(box, ".badge"), r.state);
    text(part(box, ".when"), clock(r.at_ms));
    text(part(box, ".why"), r.reason ?? "");
    text(part(box, ".explanation"), r.explanation || "No explanation was stored.");
    text(part(box, ".model"), [r.model ? `Model: ${r.model}` : null, r.migration ? `became migration ${r.migration}` : null].filter(Boolean).join(" · "));
    const raw = part(box, ".raw");
    raw.hidden = !r.inputs;
    if (!raw.dataset.bound) { raw.dataset.bound = "1"; raw.addEventListener("toggle", () => { if (raw.open) text(part(raw, "pre"), rawText(r.inputs)); }); }
  });
}
// A list of plain numbers on one line, everything else indented.
function rawText(inputs) { return JSON.stringify(inputs, null, 2).replace(/\[\s+(-?[\d.e+]+),\s+(-?[\d.e+-]+)\s+\]/g, "[$1, $2]"); }

function drawStore() {
  none("store", hub.store.length === 0);
  $("store-table").hidden = hub.store.length === 0;
  sync($("store"), hub.store, (bucket) => bucket.name, (bucket) => make("tr", { role: "row", "data-bucket": bucket.name }, make("th", { scope: "row", role: "rowheader" }, bucket.name), make("td", { role: "cell", class: "number count" }), make("td", { role: "cell", class: "number size" }), make("td", { role: "cell", class: "where" })), (row, bucket) => {
    const open = bucket.objects.filter((object) => object.state === "open").length;
    text(part(row, ".count"), `${bucket.objects.length}${open ? ` (${open} open)` : ""}`);
    text(part(row, ".size"), bytes(bucket.objects.reduce((sum, object) => sum + (object.size || 0), 0)));
    const sites = [...new Set(bucket.objects.flatMap((object) => object.sites ?? []))].sort();
    const persisted = bucket.objects.filter((object) => object.persisted).length;
    const key = sites.join(" ") + persisted, where = part(row, ".where");
    if (where.dataset.drawn !== key) {
      where.dataset.drawn = key;
      where.replaceChildren(...sites.flatMap((site, i) => [i ? " " : "", siteLabel(site)]), persisted ? make("span", { class: "soft small" }, ` ${persisted} persisted`) : "");
    }
  });
}

// The hub tells all that it remembers first; so events are drawn in handfuls, and only the newest of each.
let newest = 0;
const untold = [];
function listen() {
  const source = new EventSource(`/v1/events?since=${newest}`);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.id <= newest) return;
    newest = event.id;
    if (untold.push(event) === 1) setTimeout(drawEvents, 50);
    if (untold.length > EVENTS_MAX) untold.shift();
  };
  // The browser reconnects by itself unless the hub refused; then ask again later, when the page is allowed in.
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, 5000); };
}
function drawEvents() {
  none("events", false);
  const list = $("events");
  for (const event of untold.splice(0)) {
    const bad = /\.(failed|lost|stuck)$/.test(event.kind) || (event.kind === "job.ended" && event.message.startsWith("failed"));
    const good = /\.(done|ready|committed)$/.test(event.kind) || (event.kind === "job.ended" && event.message.startsWith("succeeded"));
    list.prepend(make("li", { "data-event": event.id, "data-tone": bad ? "bad" : good ? "good" : undefined },
      make("time", { datetime: new Date(event.at_ms).toISOString() }, clock(event.at_ms)),
      make("span", {}, make("span", { class: "kind" }, event.kind), [event.subject, event.message].filter(Boolean).join(": "))));
  }
  while (list.children.length > EVENTS_MAX) list.lastElementChild.remove();
  poll();
}

async function everySecond() { await poll(); setTimeout(everySecond, POLL_MS); }
everySecond();
setInterval(() => { if (document.body.dataset.state === "live") pollStore(); }, STORE_POLL_MS);
setInterval(() => { if (document.body.dataset.state === "live") pollStreams(); }, STREAMS_POLL_MS);
setInterval(() => { if (document.body.dataset.state === "live") pollTiers(); }, TIERS_POLL_MS);
setInterval(() => { if (document.body.dataset.state === "live") pollRanks(); }, RANKS_POLL_MS);
